"""Prints the peak memory, in MiB, that the gateway needs to reject one body: `memory_of_body chat|messages FIELD`.

The field has 319,000 numbers where strings belong.
"""

import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pointsman_gateway.http.dialects.anthropic.messages import MessagesBody
from pointsman_gateway.http.dialects.openai.chat import ChatBody
from pointsman_gateway.http.fields import decode_body
from pointsman_servicekit.errors import InvalidArgument
from pydantic import BaseModel

from tests.security.measuring import memory_mib

VALUES = 319_000
KINDS: Mapping[str, type[BaseModel]] = {"chat": ChatBody, "messages": MessagesBody}


def refuse(kind: type[BaseModel], field: str, body: bytes) -> None:
    with pytest.raises(InvalidArgument, match=field):
        decode_body(kind, body)


def main() -> None:
    kind, field = KINDS[sys.argv[1]], sys.argv[2]
    refuse(kind, field, b'{"%b":[1]}' % field.encode())  # loads what the first refusal loads
    body = b'{"%b":[%b1]}' % (field.encode(), b"1," * VALUES)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the current VmRSS
    before = memory_mib(os.getpid(), "VmRSS")
    refuse(kind, field, body)
    print(memory_mib(os.getpid(), "VmHWM") - before)


if __name__ == "__main__":
    main()
