"""The worker process of smoke tests: `python -m pointsman_lora_server.smoke.worker BASE_MODEL`.

It runs in the engine's environment, on the CPU at a low priority, and ends when its standard input is closed.

All messages are JSON objects, one a line. The first message on standard output has the key `ready`, or `unavailable`
with the reason. Then each request on standard input gets one answer: `trial` with the result of `TrialModel.run`, or
`rejected` with the reason if PEFT cannot load the adapter.
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
NICE = 10
"""The amount by which the worker's nice value is above the lora-server's. With it, the worker gets a tenth of a core
while the threads of an engine use all cores.

With 19, a test of 2 s took 99 s while such an engine was running, and with SCHED_IDLE it never ended."""


def main() -> int:
    _lower_priority()
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_requests, args=(lines,), daemon=True).start()
    # Answers get their own stream, since libraries may print to stdout.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        import torch

        torch.set_num_threads(1)
        from pointsman_lora_server.smoke.trial import NotEnoughMemory, TrialModel
    except ImportError as error:
        _send(out, unavailable=f"its environment lacks what the test needs: {error}")
        return 1
    try:
        model = TrialModel(Path(sys.argv[1]))
    except NotEnoughMemory as error:
        _send(out, unavailable=str(error))
        return 1
    except Exception as error:  # whatever transformers raises for a model that it cannot load here
        _send(out, unavailable=f"the base model cannot be loaded on the CPU: {type(error).__name__}: {error}"[:500])
        return 1
    _send(out, ready=True)
    while True:
        _send(out, **_run(model, json.loads(lines.get())))


def _run(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        adapted = model.attach(Path(request["folder"]))
    except Exception as error:  # PEFT raises errors of many classes
        return {"rejected": f"{type(error).__name__}: {error}"[:500]}
    trial: dict[str, Any] = model.run(adapted, request["samples"], request["max_prompts"], request["max_tokens"])
    model.detach(adapted)
    return {"trial": trial}


def _send(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _read_requests(lines: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the lora-server is gone


def _lower_priority() -> None:
    """Lowers the priority of this process.

    On Linux, also makes the kernel kill this process when the thread that started it ends.
    """
    with suppress(OSError):
        os.nice(NICE)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
