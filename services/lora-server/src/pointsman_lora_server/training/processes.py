"""Trains with several processes on one machine, each on its own GPU: starts the processes, and combines their
gradients.

Each step's batch is divided among the processes, and their gradients are added. So the same options give the same
adapter, whatever the number of processes. Only the first process evaluates the adapter, reports events and writes
files. Time limits are checked against the first process's clock in all processes.

With FSDP (fully sharded data parallel), each process keeps only its part of the base model's weights, and gets the
other parts from the other processes whenever a layer computes. All processes then evaluate together, because each of
them needs the others for every pass through the model.
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
"""How long another process that fails waits before it exits. The same error may occur in the first process, which
reports it; torchrun stops the first process as soon as another one exits."""
STOP_SECONDS = 10.0
"""Seconds between SIGTERM and SIGKILL when the processes are stopped."""
RANK, LOCAL_RANK, WORLD_SIZE = "RANK", "LOCAL_RANK", "WORLD_SIZE"
"""Names of the environment variables in which torchrun and `accelerate launch` pass a process its number among all
processes, its number on this machine, and the number of processes."""
FSDP = "ACCELERATE_USE_FSDP"
"""Name of the environment variable by which `accelerate launch --use_fsdp` requests FSDP."""

T = TypeVar("T")


def is_worker() -> bool:
    """Returns whether this process was started by torchrun or `accelerate launch`."""
    return WORLD_SIZE in os.environ


def is_fsdp_requested() -> bool:
    """Returns whether this process was started by `accelerate launch --use_fsdp`."""
    return os.environ.get(FSDP, "").lower() in ("1", "true")


def is_first() -> bool:
    return int(os.environ.get(RANK, "0")) == 0


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code. A process that torchrun or `accelerate launch` started skips the
    interpreter's cleanup.

    During the cleanup, a thread of torch sometimes aborts the process, and torchrun would report that the run has
    failed.
    """
    if is_worker():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def launch(arguments: Sequence[str], count: int) -> int:
    """Runs the trainer with `arguments` in `count` processes, which torchrun starts; returns 0 on success and 1 on
    failure.

    After a process has reported an error, further output to stderr, such as torchrun's own report, is discarded. SIGINT
    and SIGTERM stop all processes and raise KeyboardInterrupt.
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
    """The processes that share a training run, as seen from one of them: `rank` is this process's number from 0, `size`
    the number of all. A run of one process needs no communication.
    """

    rank: int = 0
    size: int = 1
    uses_fsdp: bool = False
    """Whether the base model's weights are divided among the processes."""

    @classmethod
    def join(cls, device: str, minutes: float, fsdp: bool) -> "Processes":
        """Connects this process with the other processes of the run, and waits until all of them have started.

        `device` is the value of the option --device, and `minutes` the run's time limit. `fsdp` says whether to divide
        the base model's weights among the processes. Raises TrainingError if there are fewer GPUs than processes, or
        if there is no GPU but `device` is "cuda".
        """
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
        return cls(int(os.environ[RANK]), size, fsdp)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Returns the first process's `value` in every process. All processes must call this method."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        result: T = broadcast_object_list([value])[0]
        return result

    def now(self) -> float:
        """Returns the time on the first process's monotonic clock, in every process."""
        return self.agree(time.monotonic())

    @property
    def in_lockstep(self) -> "Processes":
        """The processes that must pass the same rows through the model at the same time: all with FSDP, else only this
        one.
        """
        return self if self.uses_fsdp else ALONE

    def first_computes(self, compute: Callable[[], T]) -> T:
        """Returns in every process what `compute` returns in the first one. Only the first process calls `compute`;
        with FSDP, all processes call it.
        """
        return self.agree(compute() if self.is_first or self.uses_fsdp else None)  # type: ignore[return-value]  # first

    def finish(self) -> None:
        """Waits until the first process has written the result, then ends the communication. Every process must call
        this method.

        If a process exited with an error before then, torchrun would stop the first process while it writes.
        """
        if self.size == 1:
            return
        from accelerate import PartialState

        with suppress(RuntimeError):  # another process failed, which reports it; this one has done its work
            PartialState().wait_for_everyone()
            PartialState().destroy_process_group()

    def divide(self, objective: "Objective", learner: "Learner") -> "Objective":
        """Returns an objective that divides the work of each training step among the processes; returns `objective`
        itself if there is one process.
        """
        return objective if self.size == 1 else DividedObjective(objective, learner, self)


ALONE = Processes()


class DividedObjective:
    """Computes an objective's gradients in n processes; each process takes every n-th row of a batch.

    Each process's mean loss and gradients are weighted by its fraction of the batch's learnt tokens, so their sum is
    the mean of the whole batch. A process without rows computes the first row with the weight 0, because with FSDP the
    other processes need it.
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
        loss = part * self._objective.backward(share or batch[:1])
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
