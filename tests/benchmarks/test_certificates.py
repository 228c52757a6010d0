"""The simulation of certificates knows the right verdicts, reports few wrong ones, and finds out how many rows
suffice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.certificates import KINDS, Kind, run_kind

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "right"),
    [
        (Kind("", (0.7, 0.8), 9), {"1"}),
        (Kind("", (0.8, 0.8), 9), {"0"}),
        (Kind("", (0.76, 0.8), 9), {"0", "1"}),
        (Kind("", (0.82, 0.8), 9), {"0"}),
        (Kind("", (0.8, 0.8), 9, costs=(1.0, 1.1)), {"0", "1"}),
        (Kind("", (0.8, 0.8), 9, costs=(1.0, 1.3)), {"0"}),
        (Kind("", (0.7, 0.9, 0.95), 9, floor=0.8), {"1"}),
        (Kind("", (0.82, 0.9), 9, floor=0.8), {"0", "1"}),
        (Kind("", (0.7, 0.79), 9, floor=0.8), {""}),
        (Kind("", (0.7, 0.81), 9, floor=0.8), {"1", ""}),
    ],
)
def test_the_right_verdicts_follow_from_the_true_scores_and_costs(kind: Kind, right: set[str]) -> None:
    assert kind.right() == right


def test_there_are_twenty_kinds_and_most_have_one_right_verdict() -> None:
    assert len({kind.name for kind in KINDS}) == 20
    assert sum(len(kind.right()) == 1 for kind in KINDS) >= 15


@pytest.mark.parametrize("name", ["both are equal, few rows", "a dear path is better", "graded scores, better"])
def test_few_verdicts_are_wrong_and_the_named_rows_suffice(name: str) -> None:
    (kind,) = (kind for kind in KINDS if kind.name == name)
    found = run_kind(kind, 25, seed=11)
    assert found.wrong <= 0.08  # of 25 runs
    assert found.sufficient is not None
    assert found.sufficient >= 0.8
    assert found.named_rows
    assert found.named_rows > kind.rows


def test_a_short_run_ends_in_a_line_of_json() -> None:
    command = [sys.executable, "-m", "benchmarks.certificates", "--runs", "3", "--only", "required score"]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["runs"], ended.returncode) == (3, 0 if found["kept"] else 1)
    assert [one["kind"] for one in found["findings"]] == [
        "a required score that the second reaches", "a required score that none reaches"
    ]  # fmt: skip
