"""A seed reproduces the faults and changes of a run; a leak can be distinguished from noise."""

import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.endurance.memory import Memory
from tests.endurance.schedule import CHANGES, FAULTS, MIN_CALM_SECONDS, make_schedule

HOUR = 3600.0
ROOT = Path(__file__).parents[2]


def test_the_same_seed_gives_the_same_schedule_and_another_one_does_not() -> None:
    assert make_schedule(7, HOUR) == make_schedule(7, HOUR)
    assert make_schedule(7, HOUR) != make_schedule(8, HOUR)
    assert make_schedule(7, HOUR)[:40] == make_schedule(7, HOUR * 2)[:40]


def test_an_hour_has_every_fault_and_every_change_with_time_to_recover() -> None:
    events = make_schedule(1, HOUR)
    faults = [event for event in events if event.seconds]
    assert {(event.kind, event.target) for event in faults} == set(FAULTS)
    assert {event.kind for event in events if not event.seconds} == set(CHANGES)
    assert all(after.at - before.end >= MIN_CALM_SECONDS for before, after in pairwise(faults))
    assert ("kill", "gateway-a") not in FAULTS


def samples(megabytes_per_hour: float, seed: int) -> Memory:
    """Returns an hour's memory of a service that leaks in steps of 0.3 MB, with an outage in every fourth minute, which
    needs up to 4 MB for a minute, and noise of 0.3 MB.
    """
    random_, memory = random.Random(seed), Memory()
    outage = 0.0
    for at in range(0, 3600, 10):
        if at % 240 == 0:
            outage = random_.uniform(0, 4)
        elif at % 240 == 60:
            outage = 0.0
        leaked = megabytes_per_hour * at / 3600 // 0.3 * 0.3
        memory.samples["gateway-a", 1].append((float(at), 180 + leaked + outage + random_.uniform(0, 0.3)))
    return memory


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_of_two_megabytes_an_hour_is_found_among_outages_and_noise_alone_is_none(seed: int) -> None:
    (leak,) = samples(2.0, seed).violations(HOUR)
    assert leak.startswith("the memory of gateway-a grows: 180.")
    assert samples(0.0, seed).violations(HOUR) == []
    assert samples(0.5, seed).violations(HOUR) == []


def test_growth_that_ends_with_the_warm_up_is_none() -> None:
    memory = Memory()
    for at in range(0, 3600, 10):
        memory.samples["gateway-a", 1].append((float(at), 170 + min(at, 900) / 60))
    assert memory.violations(HOUR) == []


def test_of_a_gateway_the_memory_of_its_data_is_sampled_beside_the_resident_one(tmp_path: Path) -> None:
    memory, file = Memory(), tmp_path / "memory"
    file.write_text('{"data": 120.5, "kept by C": 3.5}')
    memory.sample("gateway-a", os.getpid(), 3.0, file)
    memory.sample("valkey", os.getpid(), 3.0)
    (data,) = memory.samples["gateway-a", os.getpid()]
    assert data == (3.0, 120.5)
    assert memory.samples["gateway-a, kept by C", os.getpid()] == [(3.0, 3.5)]
    assert memory.samples["gateway-a, resident", os.getpid()] == memory.samples["valkey", os.getpid()]


GROWTH = """
from tests.endurance.measured_gateway import Allocators

allocators = Allocators()
before = allocators.megabytes()["data"]
kept = [[number] for number in range(100_000)], bytearray(20_000_000)
print(allocators.megabytes()["data"] - before)
del kept
print(allocators.megabytes()["data"] - before)
"""


def test_a_program_knows_the_memory_of_its_data() -> None:
    """Runs in a process of its own, so that no garbage of other tests is freed meanwhile."""
    ended = subprocess.run([sys.executable, "-c", GROWTH], cwd=ROOT, capture_output=True, text=True, check=True)
    with_data, without = map(float, ended.stdout.split())
    assert 24 < with_data < 60
    assert without < 2
