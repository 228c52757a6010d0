"""Builds the messages of Envoy's external processing protocol, in the body mode FULL_DUPLEX_STREAMED."""

from collections.abc import Iterable, Iterator, Sequence

from pointsman.envoy import core_pb2, http_status_pb2
from pointsman.envoy import external_processor_pb2 as pb

MAX_PART_BYTES = 62 * 1024
"""Maximum number of bytes of a body in one message; Envoy recommends at most 64 KiB."""

Headers = Iterable[tuple[bytes, bytes]]

_OVERWRITE = core_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def header_mutation(headers: Headers, removed: Sequence[str] = ()) -> pb.HeaderMutation:
    """Returns an instruction to Envoy that sets `headers`, and removes the headers named in `removed`."""
    options = [
        core_pb2.HeaderValueOption(
            header=core_pb2.HeaderValue(key=name.decode("latin-1"), raw_value=value), append_action=_OVERWRITE
        )
        for name, value in headers
    ]
    return pb.HeaderMutation(set_headers=options, remove_headers=removed)


def request_messages(headers: pb.HeaderMutation, body: bytes) -> Iterator[pb.ProcessingResponse]:
    """Yields the messages that make Envoy send a request with these headers and this body to the engine. Envoy chooses
    the request's route again, by the new headers.
    """
    common = pb.CommonResponse(header_mutation=headers, clear_route_cache=True)
    yield pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common))
    for at in range(0, len(body), MAX_PART_BYTES):
        common = _streamed(body[at : at + MAX_PART_BYTES], at + MAX_PART_BYTES >= len(body))
        yield pb.ProcessingResponse(request_body=pb.BodyResponse(response=common))


def response_headers(status: int, headers: Headers) -> pb.ProcessingResponse:
    mutation = header_mutation([(b":status", b"%d" % status), *headers], ["content-length", "content-encoding"])
    return pb.ProcessingResponse(
        response_headers=pb.HeadersResponse(response=pb.CommonResponse(header_mutation=mutation))
    )


def response_body(body: bytes, end: bool) -> Iterator[pb.ProcessingResponse]:
    """Yields messages of at most `MAX_PART_BYTES` with a part of the response's body; `end` says whether it is the
    last part.
    """
    for at in range(0, len(body) or 1, MAX_PART_BYTES):
        common = _streamed(body[at : at + MAX_PART_BYTES], end and at + MAX_PART_BYTES >= len(body))
        yield pb.ProcessingResponse(response_body=pb.BodyResponse(response=common))


def response_trailers() -> pb.ProcessingResponse:
    return pb.ProcessingResponse(response_trailers=pb.TrailersResponse())


def whole_response(status: int, headers: Headers, body: bytes) -> pb.ProcessingResponse:
    """Returns a message with a complete response, which Envoy sends to the client without calling an engine."""
    mutation = header_mutation([(name, value) for name, value in headers if name != b"content-length"])
    code = http_status_pb2.HttpStatus()
    code.code = status  # type: ignore[assignment]  # the enumeration is open
    immediate = pb.ImmediateResponse(status=code, headers=mutation, body=body, details="pointsman")
    return pb.ProcessingResponse(immediate_response=immediate)


def header_pairs(headers: core_pb2.HeaderMap) -> list[tuple[bytes, bytes]]:
    return [(one.key.encode("latin-1"), one.raw_value or one.value.encode()) for one in headers.headers]


def _streamed(body: bytes, end: bool) -> pb.CommonResponse:
    part = pb.StreamedBodyResponse(body=body, end_of_stream=end)
    return pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=part))
