"""The cost bounds that bench-costs computes, and its validation of inputs."""

import pytest

from benchmarks.costs.__main__ import MARKER, marked
from benchmarks.costs.inputs import all_inputs
from benchmarks.costs.measuring import Cost, Step, Use


def cost(is_keyed: bool, size_mib: float, step_ms: float, peak_mib: float, receive_ms: float = 0.0) -> Cost:
    return Cost("a", is_keyed, size_mib, Use(step_ms, peak_mib), Step(step_ms), receive_ms)


@pytest.mark.parametrize(
    ("measured", "ratio"),
    [
        (cost(True, 8, step_ms=25, peak_mib=24), 1.0),
        (cost(True, 8, step_ms=100, peak_mib=24), 2.0),
        (cost(True, 60, step_ms=0, peak_mib=124), 1.0),
        (cost(True, 0, step_ms=0, peak_mib=3), 3.0),
        (cost(False, 8, step_ms=10, peak_mib=0.5), 2.0),
        (cost(False, 8, step_ms=0, peak_mib=3), 3.0),
        (cost(False, 8, step_ms=10, peak_mib=0, receive_ms=6), 0.5),
    ],
)
def test_the_tighter_bound_counts(measured: Cost, ratio: float) -> None:
    assert measured.ratio == pytest.approx(ratio)


def test_inputs_have_names_of_their_own_and_the_engine_recognizes_those_that_it_answers() -> None:
    names = set()
    for one in map(marked, all_inputs()):
        assert one.title not in names
        names.add(one.title)
        assert not one.engine or MARKER.encode() in one.body
    assert len(names) > 200
