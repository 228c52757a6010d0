"""Malformed gRPC: messages with odd fields and bytes for every method, and HTTP/2 frames in any order."""

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from pointsman.v1 import gateway_pb2 as pb
from pointsman_servicekit.grpc_client import open_channel

from tests.fuzz.mutations import change_bytes, change_json, in_pieces, odd_value
from tests.fuzz.problems import Problem
from tests.fuzz.rig import DEADLINE_SECONDS, MARGIN_SECONDS, Hung, Rig
from tests.fuzz.valid_bodies import CHAT, CHAT_MESSAGES
from tests.gateway.doubles import http2_client as http2

SERVICE = pb.DESCRIPTOR.services_by_name["Gateway"]
FAILURES = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNIMPLEMENTED")
OWN_FIELDS = (
    "model",
    "messages",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "user",
    "metadata",
    "stream",
    "stream_options",
)
EXTRA = {name: value for name, value in CHAT.items() if name not in OWN_FIELDS}
MODELS = ("auto", "scripted", "claude", "path:handbook", "triage@prod", "tiny", "", "a" * 5000, "é", "minilm")


@dataclass(frozen=True)
class Call:
    method: str
    message: bytes
    key: str
    metadata: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Frames:
    pieces: Sequence[bytes]


class GrpcMessages:
    name, share, lanes = "grpc_messages", 0.1, 6

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def make(self, random: Random, marker: str) -> Call | Frames:
        if random.random() < 0.3:
            return self._frames(random)
        method = random.choice(SERVICE.methods)
        message = self._message(random, GetMessageClass(method.input_type)())
        data = message.SerializeToString(deterministic=True)
        if random.random() < 0.3:
            data = change_bytes(random, data)
        metadata = [(("x-request-id", "a" * random.choice((1, 300))))] if random.random() < 0.1 else []
        if random.random() < 0.1:
            metadata.append(("cache-control", random.choice(("no-cache", "no-store", "x,,=", ""))))
        return Call(method.name, data, random.choice(("plain", "plain", "scoped", "limited", "wrong", "")), metadata)

    def _message(self, random: Random, message: Message) -> Message:
        """Fills a message with fields of a valid request, and changes some of them."""
        for field in message.DESCRIPTOR.fields:
            if random.random() < 0.1:
                continue
            if field.name == "messages":
                for one in random.sample(CHAT_MESSAGES, random.choice((1, 1, 2, 5))):
                    self._conversation(random, message.messages.add(), one)  # type: ignore[attr-defined]
            elif field.name == "sampling":
                self._sampling(random, message.sampling)  # type: ignore[attr-defined]
            elif field.name == "metadata":
                message.metadata["source"] = random.choice(("inbox", "", "é", "a" * 2000))  # type: ignore[attr-defined]
            elif field.name == "model":
                message.model = random.choice(MODELS)  # type: ignore[attr-defined]
            elif field.cpp_type == field.CPPTYPE_STRING:
                setattr(message, field.name, random.choice(("", "abc", "1-0", "é", "a" * 3000)))
            elif field.cpp_type == field.CPPTYPE_FLOAT:
                setattr(message, field.name, random.choice((0.5, float("nan"), float("inf"), -1.0)))
        return message

    def _conversation(self, random: Random, message: Any, given: Any) -> None:
        message.role = random.choice((given["role"], given["role"], "user", "", "x" * 60))
        content = given["content"]
        if isinstance(content, str):
            message.content = content
        else:
            message.parts.add().text = "Hello"
            media = message.parts.add().media
            media.kind = random.choice(("image", "audio", "", "x"))
            media.data, media.media_type = b"\x89PNG", random.choice(("image/png", "", "a/b;c", "é"))
        if random.random() < 0.5:
            message.extra_json = _json(random, {"tool_calls": given.get("tool_calls", []), "tool_call_id": "call_1"})

    def _sampling(self, random: Random, sampling: Any) -> None:
        sampling.max_tokens = random.choice((0, 1, 9, 2**32 - 1))
        sampling.temperature = random.choice((0.0, 0.5, -1.0, float("nan"), 1e30))
        sampling.seed = random.choice((0, -1, 2**63 - 1))
        sampling.stop.extend(["x"] * random.choice((0, 1, 4, 500)))
        if random.random() < 0.7:
            sampling.extra_json = _json(random, EXTRA)

    def _frames(self, random: Random) -> Frames:
        frames = [http2.PREFACE, http2.settings_frame({random.randrange(12): random.choice((0, 1, 2**31, 65535))})]
        for _ in range(random.randint(1, 20)):
            payload = random.randbytes(random.choice((0, 4, 5, 8, 30, 300)))
            stream = random.choice((0, 1, 1, 3, 5, 2, 2**31 - 1))
            frames.append(http2.frame(random.randrange(12), random.randrange(256), stream, payload))
        data = b"".join(frames)
        return Frames(in_pieces(random, change_bytes(random, data) if random.random() < 0.3 else data))

    async def carry_out(self, case: Call | Frames) -> Problem | None:
        if isinstance(case, Call):
            return await self._call(case)
        await self._send(case)
        return None

    async def _call(self, case: Call) -> Problem | None:
        method = SERVICE.methods_by_name[case.method]
        metadata = [*case.metadata]
        if case.key:
            metadata.append(("authorization", f"Bearer {self._rig.keys[case.key]}"))
        async with open_channel(self._rig.gateway.grpc_address) as channel:
            make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = make(f"/{SERVICE.full_name}/{case.method}")(
                case.message, metadata=metadata, timeout=DEADLINE_SECONDS + MARGIN_SECONDS
            )
            try:
                if method.server_streaming:
                    async for _ in call:
                        pass
                else:
                    await call
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise Hung from error
                if error.code().name in FAILURES:
                    return Problem(f"{error.code().name} from {case.method}", str(error.details())[:400])
        return None

    async def _send(self, case: Frames) -> None:
        host, _, port = self._rig.gateway.grpc_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.suppress(ConnectionError, TimeoutError):
            for piece in case.pieces:
                writer.write(piece)
                await writer.drain()
            await asyncio.wait_for(reader.read(4096), 0.2)
        writer.transport.abort()


def _json(random: Random, value: Any) -> str:
    changed = change_json(random, value) if random.random() < 0.9 else odd_value(random)
    text = json.dumps(changed).encode("utf-8", "replace").decode()
    return text if random.random() < 0.8 else change_bytes(random, text.encode()).decode("utf-8", "replace")
