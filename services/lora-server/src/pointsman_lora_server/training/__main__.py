"""Reads the job, runs it, tells its progress on stdout; exits with 0, 1 (cannot be done), 2 (usage) or 130 (SIGINT)."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TextIO

from pointsman_lora_server.training.adapter_files import check_merged_target, check_target
from pointsman_lora_server.training.data import Split, gather
from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.job import DPO, TrainingOptions, parse
from pointsman_lora_server.training.preferences import PreferenceSplit, gather_preferences
from pointsman_lora_server.training.stopping import on_signals

LONGEST_EVENT = 1 << 20
"""Bytes."""


def main() -> int:
    started = time.monotonic()
    job = parse()
    # A shell starts background jobs with SIGINT ignored, and Python would leave it so. What stops a job in a container
    # is SIGTERM: the same clean stop.
    on_signals(signal.default_int_handler)
    os.nice(job.nice)
    # Threads that wait shall sleep. When they spin, all wait for the one whose core is shared: on two cores with a busy
    # process beside it, 480 tokens/s this way and 90 to 220 the other. Alone it is 576 and 786: ACTIVE suits that.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    events = _take_stdout()

    def tell(event: str, **facts: object) -> None:
        said = {name: fact for name, fact in facts.items() if fact is not None}
        print(json.dumps({"event": event, **said}, ensure_ascii=False), file=events, flush=True)

    try:
        _check_targets(job)
        _do(job, _read(job), started, tell)
    except TrainingError as error:
        _warn(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        on_signals(signal.SIG_IGN)  # a second one would only cut the farewell short
        file = job.keeping.file
        _warn("stopped: no adapter was written" + ("; --resume goes on" if file and file.exists() else ""))
        return 130
    return 0


def _do(job: TrainingOptions, rows: Split | PreferenceSplit, started: float, tell: Callable[..., None]) -> None:
    # It would tell each user that a kernel for 4 bits is not there, which is to be had from a hub only.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Imported here: torch takes seconds, and wrong data should not wait for it.
    from pointsman_lora_server.training import measuring, run

    if job.check_only:
        base, material = run.prepare(job, rows, tell, _warn)
        run.show(base, material, tell)
    elif isinstance(rows, Split) and job.evaluate_only:
        measuring.measure(job, rows, started, tell, _warn)
    else:
        run.run(job, rows, started, tell, _warn)


def _read(job: TrainingOptions) -> Split | PreferenceSplit:
    gathering = gather_preferences if job.recipe.method == DPO else gather
    return gathering(job.data, job.heldout, job.heldout_share, job.system, job.recipe.seed)


def _check_targets(job: TrainingOptions) -> None:
    if job.check_only:
        return
    check_target(job.out)
    if job.merged_out is not None:
        check_merged_target(job.merged_out)
    file = job.keeping.file
    if file is not None and file.exists() and not job.keeping.resume:
        raise TrainingError(f"{file} is of an unfinished run: --resume goes on with it; or name another --checkpoint")


def _take_stdout() -> TextIO:
    """The events' own stream: what libraries print from now on goes to standard error.

    Each is written in one piece, however long: a server may append to the same file.
    """
    events = os.fdopen(os.dup(1), "w", buffering=LONGEST_EVENT, encoding="utf-8")
    os.dup2(2, 1)
    return events


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
