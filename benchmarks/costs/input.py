"""One input whose cost is measured, and the texts that several of them share."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.gateway.doubles.raw_engine import Step
from tests.security.measuring import MIB

FULL = 8 * MIB - 4096
"""Size in bytes of a body that is just accepted."""
IN_TRIAGE = {"source": "inbox"}
"""The metadata by which a request belongs to the task with validators."""
CONSOLE = {"x-pointsman-console": "1"}
PATTERN = r"[\p{L}\p{N}]{120}"


@dataclass(frozen=True)
class Input:
    """Something to send: a request (`method`), bytes on a connection to the HTTP or gRPC port (`raw`), or a gRPC
    message.
    """

    name: str
    key: str = "plain"
    method: str = ""
    path: str = ""
    body: bytes = b""
    headers: Mapping[str, str] | None = None
    engine: tuple[Step, ...] = ()
    """The engine's answer; empty: a short one."""
    raw: bytes = b""
    port: str = "http"
    grpc_method: str = ""

    @property
    def title(self) -> str:
        return self.name if self.key else f"no key, {self.name}"

    @property
    def size(self) -> int:
        return len(self.body) + len(self.raw) + sum(len(step) for step in self.engine if isinstance(step, bytes))
