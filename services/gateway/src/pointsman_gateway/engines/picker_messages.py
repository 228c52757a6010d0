"""Writes and reads the messages of endpoint pickers, external services that choose an engine for each request.

Their protocol is proposal 004, version 1, of the Gateway API Inference Extension.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec
from google.protobuf.struct_pb2 import Struct
from pointsman.envoy import core_pb2, processing_mode_pb2
from pointsman.envoy import external_processor_pb2 as ext_proc
from pointsman_servicekit.errors import ResourceExhausted, Unavailable

from pointsman_gateway.domain import Caller
from pointsman_gateway.domain.outcome import Fault
from pointsman_gateway.engines.dialects.registry import ENGINE_DIALECTS
from pointsman_gateway.engines.engine_client import EngineRequest

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
SUBSET_KEY = "x-gateway-destination-endpoint-subset"
ENDPOINT_NAMESPACE = "envoy.lb"
ENDPOINT_KEY = "x-gateway-destination-endpoint"
SERVED_KEY = "x-gateway-destination-endpoint-served"
FAIRNESS_HEADER = "x-llm-d-inference-fairness-id"
OBJECTIVE_HEADER = "x-llm-d-inference-objective"

BODY_BYTES = 62_000
"""Maximum number of bytes of a request's body in one message; Envoy's own limit is 64 KB."""
RETRY_SECONDS = 1.0
"""The Retry-After in errors for clients, in seconds; pickers give none themselves."""

_MODES = processing_mode_pb2.ProcessingMode
_PROTOCOL = ext_proc.ProtocolConfiguration(
    request_body_mode=_MODES.FULL_DUPLEX_STREAMED, response_body_mode=_MODES.FULL_DUPLEX_STREAMED
)
_ANSWER_HEADERS = {":status": "200", "content-type": "text/event-stream"}
"""The headers of the engine's answer that the gateway reports: engines are always asked for a stream."""


def to_messages(request: EngineRequest, caller: Caller, offered: Iterable[str]) -> Sequence[ext_proc.ProcessingRequest]:
    """Returns the messages that ask a picker to choose an engine: a message with headers, then one or more with the
    parts of the body.

    The body is the one that an engine would get for `request`. `offered` are the addresses (HOST:PORT) of the engines
    to choose from, and `caller` sets headers for the tenant and the priority. Raises InvalidArgument if the engine's
    API cannot express the request.
    """
    endpoint = request.api.endpoints[request.operation]
    metadata = _metadata(SUBSET_NAMESPACE, SUBSET_KEY, list(offered))
    headers = ext_proc.HttpHeaders(headers=_header_map(_headers(urlsplit(request.url).path + endpoint.path, caller)))
    body = msgspec.json.encode(ENGINE_DIALECTS[request.api.dialect].to_body(request, endpoint))
    return [
        ext_proc.ProcessingRequest(request_headers=headers, metadata_context=metadata, protocol_config=_PROTOCOL),
        *(ext_proc.ProcessingRequest(request_body=part, metadata_context=metadata) for part in _parts(body)),
    ]


def served_message(address: str) -> ext_proc.ProcessingRequest:
    """Returns the message that tells a picker which engine has begun to answer; `address` is the engine's HOST:PORT."""
    return ext_proc.ProcessingRequest(
        response_headers=ext_proc.HttpHeaders(headers=_header_map(_ANSWER_HEADERS)),
        metadata_context=_metadata(ENDPOINT_NAMESPACE, SERVED_KEY, address),
    )


def end_message() -> ext_proc.ProcessingRequest:
    """Returns the message that tells a picker that the answer has ended; the answer's text is not sent to pickers."""
    return ext_proc.ProcessingRequest(response_body=ext_proc.HttpBody(end_of_stream=True))


def named_addresses(response: ext_proc.ProcessingResponse) -> Sequence[str]:
    """Returns the engine addresses (HOST:PORT) that a picker's response names, without repetitions; empty if it
    names none.

    They are read from the response's metadata or else from its header mutations. Raises ResourceExhausted if the
    picker rejects the request for lack of capacity (429), and Unavailable if it answers with another status.
    """
    if response.HasField("immediate_response"):
        raise _refusal(response.immediate_response.status.code)
    value = ""
    if ENDPOINT_NAMESPACE in response.dynamic_metadata.fields:
        space = response.dynamic_metadata.fields[ENDPOINT_NAMESPACE].struct_value
        value = space.fields[ENDPOINT_KEY].string_value
    for common in (response.request_headers.response, response.request_body.response):
        for option in common.header_mutation.set_headers:
            if not value and option.header.key.lower() == ENDPOINT_KEY:
                value = option.header.raw_value.decode("latin-1") or option.header.value
    return list(dict.fromkeys(address.strip() for address in value.split(",") if address.strip()))


def _headers(path: str, caller: Caller) -> Mapping[str, str]:
    headers = {":method": "POST", ":path": path, "content-type": "application/json"}
    if caller.tenant:
        headers[FAIRNESS_HEADER] = caller.tenant
    if caller.priority:
        headers[OBJECTIVE_HEADER] = f"priority-{caller.priority}"
    return headers


def _parts(body: bytes) -> Iterator[ext_proc.HttpBody]:
    for start in range(0, len(body), BODY_BYTES):
        end = start + BODY_BYTES
        yield ext_proc.HttpBody(body=body[start:end], end_of_stream=end >= len(body))


def _header_map(headers: Mapping[str, str]) -> core_pb2.HeaderMap:
    values = [core_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
    return core_pb2.HeaderMap(headers=values)


def _metadata(namespace: str, key: str, value: str | list[str]) -> core_pb2.Metadata:
    fields = Struct()
    fields.update({key: value})
    return core_pb2.Metadata(filter_metadata={namespace: fields})


def _refusal(status: int) -> ResourceExhausted | Unavailable:
    if status == 429:
        message = "the endpoint picker sheds the request: the engines are saturated"
        shed = ResourceExhausted(message, code="picker_shed", retry_after=RETRY_SECONDS)
        shed.fault = Fault.ENGINE.value  # no limit of the caller's key is reached
        return shed
    message = f"the endpoint picker has no engine for the request (status {status})"
    return Unavailable(message, code="picker_no_endpoint", retry_after=RETRY_SECONDS)
