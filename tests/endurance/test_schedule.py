"""A seed reproduces the faults and changes of a run."""

from itertools import pairwise

from tests.endurance.schedule import CHANGES, FAULTS, MIN_CALM_SECONDS, make_schedule

HOUR = 3600.0


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
