"""Trains with several processes on one machine, each on its own GPU: starts them, and combines what they compute.

Each step's batch is divided among the processes, and their gradients are added. So the same options give the same
adapter, whatever the number of processes. Only the first process evaluates, reports and writes. Its clock decides for
all of them.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pointsman_lora_server.training.exits import TrainingError, set_signal_handler

if TYPE_CHECKING:
    from pointsman_lora_server.training.learner import Learner
    from pointsman_lora_server.training.loop import Objective

TRAINER_MODULE = "pointsman_lora_server.training"
REPORT_SECONDS = 10.0
"""How long the first process may take to report an error that the others had too: torchrun stops it once one exits."""
STOP_SECONDS = 10.0
"""Seconds from SIGTERM to SIGKILL of processes that are stopped."""
RANK, LOCAL_RANK, WORLD_SIZE = "RANK", "LOCAL_RANK", "WORLD_SIZE"
"""The environment variables by which torchrun and `accelerate launch` tell a process its number."""
FSDP = "ACCELERATE_USE_FSDP"
"""The environment variable by which `accelerate launch` asks for a base model that is divided among the processes."""

T = TypeVar("T")


def is_worker() -> bool:
    """Returns whether this process was started by torchrun or `accelerate launch`."""
    return WORLD_SIZE in os.environ


def is_first() -> bool:
    return int(os.environ.get(RANK, "0")) == 0


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code. A worker leaves out the interpreter's cleanup.

    During that, a thread of torch sometimes aborts the process, and torchrun would report that the run has failed.
    """
    if is_worker():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def launch(arguments: Sequence[str], count: int) -> int:
    """Runs the trainer with `arguments` in `count` processes by torchrun; returns its exit code.

    Once a process has reported an error, what torchrun adds to standard error is left out. SIGINT and SIGTERM stop all
    of them; then raises KeyboardInterrupt.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    program = [*torchrun, "-m", TRAINER_MODULE, *arguments]
    variables = {"OMP_NUM_THREADS": "1", **os.environ}  # torchrun warns if it sets this; the trainer sets its threads
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True, errors="replace", env=variables) as workers:
        assert workers.stderr is not None
        try:
            has_failed = False
            for line in workers.stderr:
                if not has_failed:
                    print(line, end="", file=sys.stderr, flush=True)
                has_failed = has_failed or line.startswith("error: ")
            return min(1, abs(workers.wait()))
        except KeyboardInterrupt:
            set_signal_handler(signal.SIG_IGN)
            _stop(workers)
            raise


def _stop(workers: "subprocess.Popen[str]") -> None:
    workers.terminate()
    try:
        workers.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        workers.kill()  # torchrun's processes end with their connection to it
        workers.communicate()


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of this run, seen from one of them. A run of one process needs no communication."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str, minutes: float) -> "Processes":
        """Waits for the other processes of the run; `device` is the option --device, `minutes` the run's time limit.

        Raises TrainingError if there are fewer GPUs than processes, or none with --device cuda, or if `accelerate
        launch` asks for FSDP.
        """
        if os.environ.get(FSDP, "").lower() in ("1", "true"):
            raise TrainingError(
                "accelerate's FSDP is not supported, because each process holds the whole base model: launch without "
                "--use_fsdp; --method qlora needs less memory"
            )
        size = int(os.environ.get(WORLD_SIZE, "1"))
        if size == 1:
            return cls()
        import torch
        from accelerate import PartialState

        gpus = 0 if device == "cpu" else torch.cuda.device_count()
        if device == "cuda" and not gpus:
            raise TrainingError("--device cuda: this environment's torch finds no GPU")
        if 0 < gpus < size:
            raise TrainingError(f"--processes {size} needs as many GPUs, and there are {gpus}; give --processes {gpus}")
        # The others wait while the first one evaluates.
        PartialState(cpu=not gpus, timeout=timedelta(minutes=minutes + 30))
        return cls(int(os.environ[RANK]), size)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Returns the first process's `value` in each process."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        result: T = broadcast_object_list([value])[0]
        return result

    def now(self) -> float:
        """Returns the time on the first process's monotonic clock."""
        return self.agree(time.monotonic())

    def first_computes(self, compute: Callable[[], T]) -> T:
        """Calls `compute` in the first process only, and returns its result in each."""
        return self.agree(compute() if self.is_first else None)  # type: ignore[return-value]  # the first one's

    def finish(self) -> None:
        """Waits until the first process has written the result, and ends the communication. Call it in each process.

        A process that ends earlier and fails would make torchrun stop the first one while it writes.
        """
        if self.size == 1:
            return
        from accelerate import PartialState

        with suppress(RuntimeError):  # another process failed, which reports it; this one has done its work
            PartialState().wait_for_everyone()
            PartialState().destroy_process_group()

    def divide(self, objective: "Objective", learner: "Learner") -> "Objective":
        """Returns the objective with the work of each step divided among the processes."""
        return objective if self.size == 1 else DividedObjective(objective, learner, self)


ALONE = Processes()


class DividedObjective:
    """Computes an objective's gradients in several processes: each takes every n-th row of a batch.

    The mean loss of a share counts by the share's tokens that are learned, so the sum is the mean of the whole batch.
    """

    def __init__(self, objective: "Objective", learner: "Learner", processes: Processes) -> None:
        self._objective = objective
        self._learner = learner
        self._processes = processes

    def backward(self, batch: Sequence[Any]) -> float:
        import torch
        from accelerate.utils import reduce

        share = batch[self._processes.rank :: self._processes.size]
        part = _learned(share) / _learned(batch)
        loss = part * self._objective.backward(share) if share else 0.0
        weights = self._learner.parameters()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) * part
        total = reduce(torch.cat([flat, flat.new_tensor([loss])]), "sum")
        pieces = total[:-1].split([one.numel() for one in weights])
        for one, piece in zip(weights, pieces, strict=True):
            one.grad = piece.reshape(one.shape).clone()
        return float(total[-1])

    def measure(self) -> dict[str, float]:
        return self._processes.first_computes(self._objective.measure)


def _learned(rows: Sequence[Any]) -> int:
    return sum(row.answer_length for row in rows)
