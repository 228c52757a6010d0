"""Opens the export targets (places for records) that `POINTSMAN_EXPORT_TARGET` names."""

import os

from pointsman_gateway.export.record_target import AllTargets, RecordTarget, WrongTarget

SEPARATOR = ","
OTLP = "otlp+"
"""The prefix of an address that is the URL of an OpenTelemetry collector."""
HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS")
"""Environment variables with headers that OpenTelemetry's library sends to every collector."""


def open_targets(addresses: str) -> RecordTarget:
    """Opens the targets at one or more addresses, with commas between them, and returns them as one target.

    Raises WrongTarget if an address is invalid, or needs a package that is not installed.
    """
    found = [one.strip() for one in addresses.split(SEPARATOR)]
    for address in found:
        _check_userinfo(address)
    if sum(one.startswith(OTLP) for one in found) > 1 and (name := next(filter(os.environ.get, HEADERS), "")):
        raise WrongTarget(
            f"{name} would be sent to each of the collectors of POINTSMAN_EXPORT_TARGET: name one collector, which "
            "forwards the records to the others"
        )
    targets = [_open(one) for one in found]
    return targets[0] if len(targets) == 1 else AllTargets(targets)


def _check_userinfo(address: str) -> None:
    """Raises WrongTarget if a URL has a password, because URLs are logged; the error's text does not contain the
    password.

    A user name alone is accepted, since it is part of Azure's URLs
    (abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH).
    """
    scheme, _, rest = address.partition("://")
    userinfo, at, host = rest.partition("/")[0].rpartition("@")
    if at and scheme.startswith(OTLP):
        raise WrongTarget(
            f"the URL of the collector {host} has a name or password: remove it, and set "
            f"{HEADERS[0]}=authorization=Basic%20CREDENTIALS instead"
        )
    if ":" in userinfo:
        raise WrongTarget(
            f"the URL {scheme}://...@{host} has a password: remove it, and use the store's own environment variables"
        )


def _open(address: str) -> RecordTarget:
    scheme, _, host = address.partition("://")
    if scheme.startswith(OTLP):
        if scheme.removeprefix(OTLP) not in ("http", "https") or not host.strip("/"):
            raise WrongTarget(f"'{address}' is no collector: use otlp+http://HOST:4318 or otlp+https://HOST:4318")
        try:
            from pointsman_gateway.export.otlp_target import OtlpTarget
        except ImportError as error:
            raise WrongTarget(f"{error}: install pointsman-gateway[tracing]") from error
        return OtlpTarget(address.removeprefix(OTLP))
    try:
        from pointsman_gateway.export.parquet_target import ParquetTarget
        from pointsman_gateway.export.target import open_target
    except ImportError as error:
        raise WrongTarget(f"{error}: install pointsman-gateway[parquet]") from error
    return ParquetTarget(open_target(address))
