"""Reads the job, runs it, tells its progress on stdout; exits with 0, 1 (cannot be done), 2 (usage) or 130 (SIGINT)."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from pointsman_lora_server.training.adapter_files import check_target
from pointsman_lora_server.training.data import gather
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.job import parse


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}, ensure_ascii=False), flush=True)


def warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    started = time.monotonic()
    job = parse()
    # A shell starts background jobs with SIGINT ignored, and Python would leave it so. What stops a job in a container
    # is SIGTERM: the same clean stop.
    _on_signals(signal.default_int_handler)
    # Threads that wait shall sleep. When they spin, all wait for the one whose core is shared: on two cores with a busy
    # process beside it, 480 tokens/s this way and 90 to 220 the other. Alone it is 576 and 786: ACTIVE suits that.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    try:
        check_target(job.out)
        rows = gather(job.data, job.heldout, job.heldout_share, job.system, job.recipe.seed)
        # Imported here: torch takes seconds, and wrong data should not wait for it.
        from pointsman_lora_server.training.run import run

        run(job, rows, started, tell, warn)
    except TrainingError as error:
        warn(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _on_signals(signal.SIG_IGN)  # a second one would only cut the farewell short
        warn("stopped: no adapter was written")
        return 130
    return 0


def _on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


if __name__ == "__main__":
    sys.exit(main())
