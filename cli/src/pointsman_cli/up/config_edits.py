"""Reports edits of the configuration at the terminal of `pointsman up`, from the gateway's log."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_SECONDS = 1.0
_EDIT = re.compile(r"the changed configuration is rejected, \S+ stays active: .+|configuration \S+ is active")


async def report_edits(log: Path, say: Callable[[str], None], seconds: float = _SECONDS) -> None:
    """Watches the gateway's log until cancelled, and calls `say` with the result of each edit of the configuration.

    Reads the log every `seconds`. Equal results in succession, as several gateway processes log them, are reported
    once. Returns if the log cannot be read.
    """
    reported = ""
    with suppress(OSError), log.open("rb") as file:
        file.seek(0, 2)
        rest = b""
        while True:
            *lines, rest = (rest + file.read()).split(b"\n")
            for line in lines:
                edit = edit_of(line.decode(errors="replace"))
                if edit and edit != reported:
                    say(edit)
                reported = edit or reported
            await asyncio.sleep(seconds)


def edit_of(line: str) -> str:
    """Returns the message of a line of the gateway's log that reports an edit of the configuration; else "".

    The line may be text or JSON.
    """
    if line.startswith("{"):
        try:
            line = str(json.loads(line)["message"])
        except (ValueError, LookupError, TypeError):
            return ""
    found = _EDIT.search(" ".join(line.replace("\\n", " ").split()))
    return found[0] if found else ""
