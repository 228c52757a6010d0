"""Runs the trainer. Progress events are written to stdout, one JSON object a line; warnings and errors to stderr.

Exit codes: 0 (success), 1 (the training cannot be done), 2 (wrong arguments), 130 (stopped by SIGINT or SIGTERM).
"""

import json
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, TextIO

from pointsman_lora_server.training import processes
from pointsman_lora_server.training.adapter_folder import check_merged_target, check_target
from pointsman_lora_server.training.exits import TrainingError, set_signal_handler
from pointsman_lora_server.training.options import TrainingOptions, parse

if TYPE_CHECKING:
    from pointsman_lora_server.training.loop import Emit

MAX_EVENT_BYTES = 1 << 20


def main() -> int:
    started = time.monotonic()
    options = parse()
    # A shell starts background jobs with SIGINT ignored, and Python would keep that. A container is stopped by SIGTERM,
    # which stops the run in the same clean way.
    set_signal_handler(signal.default_int_handler)
    os.nice(options.nice)
    # Idle threads should sleep. If they spin, all wait for the one whose core is shared: on two cores with a busy
    # process next to it, 480 tokens/s this way and 90 to 220 the other. Without one it is 576 and 786; ACTIVE suits
    # that case.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    events = sys.stdout if options.processes > 1 and not processes.is_worker() else _take_stdout()

    def emit(event: str, **facts: object) -> None:
        if not processes.is_first():
            return
        known = {name: fact for name, fact in facts.items() if fact is not None}
        print(json.dumps({"event": event, **known}, ensure_ascii=False), file=events, flush=True)

    try:
        _check_targets(options)
        if options.processes > 1 and not (processes.is_worker() or options.check_only or options.evaluate_only):
            return processes.launch(sys.argv[1:], options.processes)
        _run(options, started, emit)
    except TrainingError as error:
        _warn(f"error: {error}")
        if not processes.is_first():
            time.sleep(processes.REPORT_SECONDS)
        return 1
    except KeyboardInterrupt:
        set_signal_handler(signal.SIG_IGN)  # a second signal would only cut the message short
        file = options.checkpoints.file
        _warn("stopped: no adapter was written" + ("; --resume goes on" if file and file.exists() else ""))
        return 130
    return 0


def _run(options: TrainingOptions, started: float, emit: "Emit") -> None:
    rows = options.method.read_rows(options)
    # It would warn every user about a missing 4-bit kernel, which is only available from a hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # Imported here: torch takes seconds, and wrong data should be reported first.
    from pointsman_lora_server.training import run

    if options.check_only:
        base, dataset = run.prepare(options, rows, emit, _warn)
        run.show_first_example(base, dataset, emit)
    elif options.evaluate_only:
        run.evaluate_only(options, rows, started, emit, _warn)
    else:
        run.train(options, rows, started, emit, _warn)


def _check_targets(options: TrainingOptions) -> None:
    if options.check_only:
        return
    check_target(options.out)
    if options.merged_out is not None:
        check_merged_target(options.merged_out)
    file = options.checkpoints.file
    if file is not None and file.exists() and not options.checkpoints.resume:
        raise TrainingError(
            f"{file} belongs to an unfinished run: --resume goes on with it; or name another --checkpoint"
        )


def _take_stdout() -> TextIO:
    """Returns a new stream to the process's stdout, for progress events only, and redirects file descriptor 1 to
    stderr, so that the output of libraries goes there.

    The stream's buffer holds a whole event of up to `MAX_EVENT_BYTES`. So each event is written by one system call, and
    is not mixed with lines that the lora-server appends to the same file.
    """
    events = os.fdopen(os.dup(1), "w", buffering=MAX_EVENT_BYTES, encoding="utf-8")
    os.dup2(2, 1)
    return events


def _warn(line: str) -> None:
    if processes.is_first():
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    processes.leave(main())
