"""The gRPC service of Envoy's external processing protocol (`envoy.service.ext_proc.v3.ExternalProcessor`)."""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
from pointsman.envoy import external_processor_pb2 as pb
from pointsman.envoy.processing_mode_pb2 import ProcessingMode
from pointsman_servicekit.errors import FailedPrecondition

from pointsman_gateway.grpc.ext_proc_exchange import AsgiApp, Exchange

SERVICE = pb.DESCRIPTOR.services_by_name["ExternalProcessor"].full_name

BAD_MODE = "bad_processing_mode"

# In quotes: grpcio's classes are generic in their stubs only.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ExternalProcessor:
    """Implements Envoy's external processing. In each call, Envoy passes one HTTP request, which the ASGI application
    `app` answers.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def Process(
        self, requests: AsyncIterator[pb.ProcessingRequest], context: Context
    ) -> AsyncIterator[pb.ProcessingResponse]:
        async for response in Exchange(self._app).responses(_checked(requests)):
            yield response


async def _checked(requests: AsyncIterator[pb.ProcessingRequest]) -> AsyncIterator[pb.ProcessingRequest]:
    """Yields the requests; raises FailedPrecondition if Envoy's filter is configured with a mode that the gateway does
    not support.
    """
    is_first = True
    async for request in requests:
        if is_first:
            _check_modes(request)
            is_first = False
        yield request


def _check_modes(first: pb.ProcessingRequest) -> None:
    if first.observability_mode:
        raise FailedPrecondition(
            "the ext_proc filter is in observability_mode, so it takes no decision; remove it", code=BAD_MODE
        )
    if first.WhichOneof("request") != "request_headers":
        raise FailedPrecondition(
            "the ext_proc filter does not send the request's headers; set request_header_mode: SEND", code=BAD_MODE
        )
    if not first.HasField("protocol_config"):
        return  # of older proxies
    for name in ("request_body_mode", "response_body_mode"):
        mode = getattr(first.protocol_config, name)
        if mode != ProcessingMode.FULL_DUPLEX_STREAMED:
            raise FailedPrecondition(
                f"the ext_proc filter has {name}: {ProcessingMode.BodySendMode.Name(mode)}; set FULL_DUPLEX_STREAMED",
                code=BAD_MODE,
            )
