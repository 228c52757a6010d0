"""The place from which a command reads the request log: Redis, or the exporter's Parquet files."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pointsman_gateway.config.field_types import ConfigError

from pointsman_lab.redis_log import open_redis_log
from pointsman_lab.request_log import RequestLog

if TYPE_CHECKING:
    from pointsman_lab.parquet.log import ParquetRequestLog


@dataclass(frozen=True, slots=True)
class LogSource:
    redis_url: str = ""
    records: str = ""
    """The folder or URL to which the exporter writes Parquet files; if it is set, Redis is not read."""

    @property
    def is_given(self) -> bool:
        return bool(self.redis_url or self.records)

    def open(self) -> AbstractAsyncContextManager[RequestLog]:
        """Opens the request log in Redis or in exported records; raises ConfigError if the user named neither.

        Raises InvalidArgument or FailedPrecondition if the log cannot be opened.
        """
        if self.records:
            return self.open_records()
        if not self.redis_url:
            raise ConfigError(
                "there is no request log; name its Redis by --redis or POINTSMAN_GATEWAY_REDIS_URL, "
                "or exported records by --from"
            )
        return open_redis_log(self.redis_url)

    def open_records(self) -> AbstractAsyncContextManager["ParquetRequestLog"]:
        """Opens the exported records in the folder or URL `records`; use the result as an asynchronous context manager.

        Raises ConfigError if DuckDB is not installed, InvalidArgument if there are no records, and FailedPrecondition
        if the records cannot be read.
        """
        try:
            from pointsman_lab.parquet.log import open_parquet_log
        except ImportError as error:  # only this source needs it
            raise ConfigError(f"{error}: install pointsman-lab[parquet]") from error
        return open_parquet_log(self.records)
