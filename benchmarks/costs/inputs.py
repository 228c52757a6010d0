"""All inputs whose costs are measured. Each is hostile, or as large as the limits allow."""

from collections.abc import Iterator

from benchmarks.costs.conversation_inputs import conversation_inputs, schema_inputs
from benchmarks.costs.input import Input
from benchmarks.costs.keyless_inputs import keyless_inputs
from benchmarks.costs.other_inputs import engine_inputs, grpc_inputs, invalid_inputs, page_inputs, route_inputs


def all_inputs() -> Iterator[Input]:
    yield from keyless_inputs()
    yield from page_inputs()
    yield from invalid_inputs()
    yield from conversation_inputs()
    yield from schema_inputs()
    yield from route_inputs()
    yield from engine_inputs()
    yield from grpc_inputs()
