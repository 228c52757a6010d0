"""Tries adapters as it is asked to, a JSON object a line: `python -m pointsman_lora_server.smoke.process BASE_MODEL`.

In the engine's environment, on the CPU, behind everything else that wants it. It ends with whoever holds its
stdin open.
"""

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

PR_SET_PDEATHSIG = 1  # prctl(2)
NICE = 19


def main() -> int:
    _step_back()
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    # What libraries print must not be taken for answers.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        import torch

        torch.set_num_threads(1)
        from pointsman_lora_server.smoke.trial import NotEnoughMemory, TrialModel
    except ImportError as error:
        _say(out, unavailable=f"its environment lacks what the trial needs: {error}")
        return 1
    try:
        bench = TrialModel(Path(sys.argv[1]))
    except NotEnoughMemory as error:
        _say(out, unavailable=str(error))
        return 1
    except Exception as error:  # whatever transformers raises of a model that it cannot load here
        _say(out, unavailable=f"the base model cannot be loaded on the CPU: {type(error).__name__}: {error}"[:500])
        return 1
    _say(out, ready=True)
    while True:
        _say(out, **_try(bench, json.loads(lines.get())))


def _try(bench: Any, order: dict[str, Any]) -> dict[str, Any]:
    try:
        adapted = bench.attach(Path(order["folder"]))
    except Exception as error:  # PEFT's, of many classes; the base may be half changed by then
        return {"refused": f"{type(error).__name__}: {error}"[:500]}
    found: dict[str, Any] = bench.run(adapted, order["samples"], order["rows"], order["tokens"])
    bench.detach(adapted)
    return {"tried": found}


def _say(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _read(lines: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # nobody listens any more


def _step_back() -> None:
    """Not where the system has no such calls; and killed with the thread that started us."""
    with suppress(OSError):
        os.nice(NICE)
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
