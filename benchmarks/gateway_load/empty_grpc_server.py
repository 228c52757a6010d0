"""A gRPC server that does nothing: it sends prebuilt answers like the gateway's. Its cost is grpcio's share of the
gateway's.

python -m benchmarks.gateway_load.empty_grpc_server PORT
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc

from benchmarks.gateway_load import answers
from benchmarks.gateway_load.http_client import HOST

TEXT = "".join(answers.WORDS)
CONSIDERED = pb.Considered(path="fast", outcome="chosen", reason="the request names it")
DECISION = pb.Decision(
    id="d" * 32, task="unknown", path="fast", kind="prompt", reason="forced", considered=[CONSIDERED]
)
STARTED = pb.Started(decision=DECISION, model="mock")
RECEIPT = pb.Receipt(
    usage=pb.Usage(prompt_tokens=20, completion_tokens=8),
    cost_usd=0.00001,
    cost_parts_usd={"prompt": 0.000005, "completion": 0.000005},
    seconds=dict.fromkeys(("admission", "adapter", "queue", "prefill", "generation", "first_token", "total"), 0.001),
    outcome="ok",
    path="fast",
)


class EmptyServicer(gateway_pb2_grpc.GatewayServicer):
    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        choices = [pb.Choice(content=TEXT, finish_reason="stop")]
        return pb.GenerateResponse(started=STARTED, choices=choices, receipt=RECEIPT)

    async def GenerateStream(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        yield pb.GenerateStreamResponse(started=STARTED)
        yield pb.GenerateStreamResponse(delta=pb.Delta(content=TEXT, finish_reason="stop"))
        yield pb.GenerateStreamResponse(finished=pb.Finished(finish_reason="stop", receipt=RECEIPT))


async def serve(port: int) -> None:
    server = grpc.aio.server()
    gateway_pb2_grpc.add_GatewayServicer_to_server(EmptyServicer(), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
