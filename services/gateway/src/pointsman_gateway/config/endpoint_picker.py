"""The schema of `endpoint_picker` in models.yaml: a service that chooses the engine of a group for each request."""

from typing import Literal

from pydantic import Field

from pointsman_gateway.config.field_types import Strict


class EndpointPickerConfig(Strict):
    """An endpoint picker, as the Gateway API Inference Extension defines it (proposal 004, version 1)."""

    url: str = Field(
        pattern=r"^grpcs?://(\[[0-9a-fA-F:]+\]|[^\s/:@]+):[0-9]{1,5}$",
        description="grpc://HOST:PORT, or with TLS grpcs://HOST:PORT",
    )
    failure_mode: Literal["open", "close"] = Field(
        default="open", description="without a choice of the picker, open: the gateway chooses; close: an error"
    )
    timeout_seconds: float = Field(default=1.0, gt=0, le=60, description="for the picker's choice")
