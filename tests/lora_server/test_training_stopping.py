"""Signals that ask a training run to stop are deferred while it saves a checkpoint."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pointsman_lora_server.training.exits import SIGNALS, delaying_signals, set_signal_handler

from tests.lora_server import trainings
from tests.lora_server.trainings import PYTHON

TIMES = 60

# A thread interrupts the saving of a checkpoint repeatedly, each time after the previous signal was received.
INTERRUPTED = """
import os, random, sys, threading, time
from pathlib import Path
from signal import SIGTERM, default_int_handler
import torch
from pointsman_lora_server.training import checkpoint
from pointsman_lora_server.training.learning_rate import StepCounter
from pointsman_lora_server.training.run_state import RunState
from pointsman_lora_server.training.exits import set_signal_handler

file, times = Path(sys.argv[1]), int(sys.argv[2])
weights = {f"a{number}": torch.zeros(64, 8) for number in range(28)}
state = RunState(StepCounter(10, 10))
kept = checkpoint.Checkpoint({}, {}, state, weights, weights, checkpoint.random_state(), weights)
heard, ready = 0, threading.Event()

def interrupt():
    for _ in range(times):
        ready.wait()
        ready.clear()
        time.sleep(random.uniform(0, 0.02))
        os.kill(os.getpid(), SIGTERM)

checkpoint.save(file, kept)
set_signal_handler(default_int_handler)
threading.Thread(target=interrupt, daemon=True).start()
while heard < times:
    try:
        ready.set()
        while True:
            checkpoint.save(file, kept)
    except KeyboardInterrupt:
        heard += 1
        assert checkpoint.load(file, {}) is not None
print("heard", heard)
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    set_signal_handler(signal.default_int_handler)
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_signal_is_delivered_once_at_the_end(number: signal.Signals) -> None:
    did = []

    def interrupted() -> None:
        with delaying_signals():
            signal.raise_signal(number)
            signal.raise_signal(number)
            did.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert did == ["all of it"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_without_a_signal_nothing_is_delivered() -> None:
    with delaying_signals():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == [signal.default_int_handler] * 2


def test_an_exception_of_the_block_has_priority() -> None:
    def failing() -> None:
        with delaying_signals():
            signal.raise_signal(signal.SIGTERM)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        failing()


@pytest.mark.skipif(not PYTHON.exists(), reason="needs the engine's environment")
def test_a_signal_during_a_checkpoint_stops_the_run_afterwards(tmp_path: Path) -> None:
    program = [str(PYTHON), "-c", INTERRUPTED, str(tmp_path / "checkpoint.pt"), str(TIMES)]
    ran = subprocess.run(program, env=trainings.environment(), capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, f"heard {TIMES}\n"), ran.stderr
