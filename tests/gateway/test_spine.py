"""The files that docs/architecture.md lists for the path of a chat request are those that it takes, in their order."""

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pointsman_gateway

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Neighbours, open_http_client

ROOT = Path(__file__).parents[2]
SOURCE = Path(pointsman_gateway.__file__).parent
MAX_FILES, MAX_LINES = 13, 3300


def listed_functions() -> list[tuple[str, str]]:
    """Returns the files of the list, and in each the function to read first."""
    chapter = (ROOT / "docs/architecture.md").read_text().split("## The path of one request")[1].split("\n## ")[0]
    items = re.findall(r"^\d+\. (.*)$", chapter, re.MULTILINE)
    found = [re.match(r"`([\w/]+\.py)` \(`([\w.]+)`\): ", item) for item in items]
    return [(one[1], one[2]) for one in found if one is not None] if None not in found else []


class CallRecorder:
    """Records the gateway's functions in the order of their first calls."""

    def __init__(self) -> None:
        self.functions: dict[tuple[str, str], None] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{SOURCE}/"):
            self.functions[str(Path(code.co_filename).relative_to(SOURCE)), code.co_qualname] = None


def test_the_path_of_a_chat_request_is_short() -> None:
    files = {file for file, _ in listed_functions()}
    assert 0 < len(files) <= MAX_FILES
    assert sum(len((SOURCE / file).read_text().splitlines()) for file in files) <= MAX_LINES


async def test_a_chat_request_takes_the_listed_path(neighbours: Neighbours) -> None:
    recorder, listed = CallRecorder(), listed_functions()
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        sys.setprofile(recorder)
        try:
            answer = await client.post(
                "/v1/chat/completions", json={"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
            )
        finally:
            sys.setprofile(None)
    assert answer.status_code == 200, answer.text
    assert [function for function in recorder.functions if function in listed] == listed
