"""Reads the job, runs it, tells its progress on stdout; exit code 0, 1 (it cannot be done), 2 (arguments) or 130 (SIGINT)."""

import json
import os
import signal
import sys
import time

from pointsman_lora_server.training.errors import TrainingError
from pointsman_lora_server.training.job import parse


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}, ensure_ascii=False), flush=True)


def warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    started = time.monotonic()
    job = parse()
    # A shell starts background jobs with SIGINT ignored, and Python would leave it so. What stops a job in a container is
    # SIGTERM: the same clean stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    try:
        # Imported here: after the settings above, and with the signals in place, since torch takes seconds.
        from pointsman_lora_server.training.run import run

        run(job, started, tell, warn)
    except TrainingError as error:
        warn(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        warn("stopped: no adapter was written")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
