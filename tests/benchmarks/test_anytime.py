"""The simulation of confidence sequences, which works on arrays, decides the same as Pointsman's own code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pointsman_servicekit.confidence_sequences import lower_limit, upper_limit
from pointsman_servicekit.statistics import lower_limit_of_difference, one_sided_z, wilson_interval

from benchmarks.anytime import GRADES, NEVER, SequenceLimits, WilsonLimits, first_look, min_differences, rows_needed

ROOT = Path(__file__).parents[2]
MEANS = [(0.0, 7), (0.5, 1), (0.8, 20), (1.0, 40), (0.05, 2000), (0.001, 1000)]
Z = one_sided_z(0.95)
SUMS = np.array([[round(GRADES * mean * count) for mean, count in MEANS]])
COUNTS = np.array([[count for _, count in MEANS]])


def test_the_limits_for_arrays_are_those_of_the_library() -> None:
    sequence, wilson = SequenceLimits(0.05, 2000).lower(SUMS, COUNTS), WilsonLimits(Z).lower(SUMS, COUNTS)
    assert sequence[0] == pytest.approx([lower_limit(mean, count, 0.05) for mean, count in MEANS], abs=1e-5)
    assert wilson[0] == pytest.approx([wilson_interval(*each, Z)[0] for each in MEANS], abs=1e-12)


def test_the_differences_for_arrays_are_those_of_the_library() -> None:
    expected = [
        lower_limit_of_difference(mean, lower_limit(mean, count, 0.05), other, upper_limit(other, others, 0.05))
        for (mean, count), (other, others) in zip(MEANS, reversed(MEANS), strict=True)
    ]
    found = min_differences(SequenceLimits(0.05, 2000), (SUMS, COUNTS), (SUMS[:, ::-1], COUNTS[:, ::-1]))
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_rows_are_those_after_which_four_of_five_streams_are_decided() -> None:
    decided = np.array([[False, True, True], [True, False, False], [True] * 3, [False, True, False], [False] * 3])
    looks = first_look(decided)
    assert looks.tolist() == [2, 1, 1, 2, NEVER]
    assert (rows_needed(looks), rows_needed(looks[-2:])) == (2, None)


def test_a_short_run_ends_in_a_line_of_json() -> None:
    command = [sys.executable, "-m", "benchmarks.anytime", "--streams", "20", "--looks", "60"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["streams"], ended.returncode) == (20, 0 if found["kept"] else 1)
    assert {one["decision"] for one in found["findings"]} == {
        "best_value", "advise --live", "canary at 0.1", "canary at 0.5"
    }  # fmt: skip
