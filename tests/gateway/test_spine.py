"""A chat request passes through the files that docs/architecture.md lists for it, in their order."""

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any, TypeGuard

import pointsman_gateway
import pytest

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Neighbours, open_http_client

ROOT = Path(__file__).parents[2]
SOURCE = Path(pointsman_gateway.__file__).parent
MAX_FILES, MAX_LINES = 13, 3300
RECEIVES = ("http/fast_connection.py", "FastConnection.data_received")
"""The function that passes the bytes of the client's socket to the first function of the list."""
SENDS_END = ("http/sinks.py", "HttpSink.finished")
"""The function that sends the end of the answer after the last function of the list."""
WRITES = ("http/sinks.py", "ConnectionSink._write")
"""The function that writes to the client's socket."""


def listed_functions() -> list[tuple[str, str]]:
    """Returns the files of the list, and in each the function to read first."""
    chapter = (ROOT / "docs/architecture.md").read_text().split("## The path of one request")[1].split("\n## ")[0]
    items = re.findall(r"^\d+\. (.*)$", chapter, re.MULTILINE)
    found = [re.match(r"`([\w/]+\.py)` \(`([\w.]+)`\): ", item) for item in items]
    return [(one[1], one[2]) for one in found if one is not None] if None not in found else []


class CallRecorder:
    """Records the gateway's functions in the order of their first calls, and which of them wrote to the client."""

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], None] = {}
        self.writers: list[tuple[str, str]] = []
        """The functions of `http` that have called a transport's `write`, one item per call."""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        caller = frame if event == "c_call" else frame.f_back
        called = argument.__name__ if event == "c_call" else frame.f_code.co_name
        if event in ("call", "c_call") and called == "write" and is_of_gateway(caller, "http/"):
            self.writers.append(name_of(caller))
        if event == "call" and is_of_gateway(frame):
            self.functions[name_of(frame)] = None


def is_of_gateway(frame: FrameType | None, folder: str = "") -> TypeGuard[FrameType]:
    return frame is not None and frame.f_code.co_filename.startswith(f"{SOURCE}/{folder}")


def name_of(frame: FrameType) -> tuple[str, str]:
    """Returns the file of a function of the gateway, relative to its package, and the function's qualified name."""
    return str(Path(frame.f_code.co_filename).relative_to(SOURCE)), frame.f_code.co_qualname


def test_the_path_of_a_chat_request_is_short() -> None:
    files = {file for file, _ in listed_functions()}
    assert 0 < len(files) <= MAX_FILES
    assert sum(len((SOURCE / file).read_text().splitlines()) for file in files) <= MAX_LINES


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_chat_request_takes_the_listed_path_from_the_socket_to_the_socket(
    neighbours: Neighbours, stream: bool
) -> None:
    recorder, listed = CallRecorder(), listed_functions()
    body = {"model": "auto", "stream": stream, "messages": [{"role": "user", "content": IN_CHAT}]}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        sys.setprofile(recorder)
        try:
            answer = await client.post("/v1/chat/completions", json=body)
        finally:
            sys.setprofile(None)
    assert answer.status_code == 200, answer.text
    path = [RECEIVES, *listed, SENDS_END]
    assert [function for function in recorder.functions if function in path] == path
    assert set(recorder.writers) == {WRITES}
    assert SENDS_END[0] in dict(listed)
