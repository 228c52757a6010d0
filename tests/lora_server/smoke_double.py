"""A double of the smoke test's process; the first word of the name of the adapter's folder selects its answer."""

import json
import os
import sys
import time
from pathlib import Path

BUSY_SECONDS = 0.5
"""The CPU time that the process uses for a folder with the name "busy"."""
ROW = {"prompt_ids": [1, 2], "token_ids": [3, 4], "gaps": [5.0, 6.0], "text": "a b", "finite": True, "stopped": True}
GOOD = {"rows": [ROW], "difference": 3.0, "stops": True, "exact": True}


def main() -> None:
    if sys.argv[1:] == ["unavailable"]:
        say(unavailable="its environment lacks what the test needs: no module named 'peft'")
        return
    say(ready=True)
    for line in sys.stdin:
        order = json.loads(line)
        folder = Path(order["folder"])
        kind = folder.name.partition("-")[0]
        if kind == "crash" or (kind == "crash_once" and not _seen(folder)):
            print("MemoryError: no more", file=sys.stderr, flush=True)
            os._exit(9)
        if kind == "hang":
            time.sleep(600)
        while kind == "busy" and time.process_time() < BUSY_SECONDS:
            pass
        if kind == "refused":
            say(rejected="KeyError: 'lora_A'")
        else:
            say(trial=GOOD | {"difference": 0.001} if kind == "weak" else GOOD)


def _seen(folder: Path) -> bool:
    mark = folder.with_suffix(".seen")
    seen = mark.exists()
    mark.touch()
    return seen


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
