"""`make bench-gpu ARGS=--dry-gpu` runs each step of the measurement on the CPU engine, and writes both files."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.page import DRY

ROOT = Path(__file__).parents[2]


def test_a_dry_run_measures_each_part_on_the_cpu_engine(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "benchmarks.gpu", "--dry-gpu", "--out", str(tmp_path / "gpu")]
    ended = subprocess.run(program, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=1800, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["missing"] == []
    assert [(row["variant"], row["adapters"]) for row in found["serving"]] == [
        ("", 8),
        ("FP8 (dry)", 1),
        ("tensor parallel (dry)", 1),
    ]
    for row in found["serving"]:
        for side in (row["ours"], row["bare"]):
            assert (side["failed"], side["wrong_tokens"]) == (0, 0)
            assert side["tokens_per_second"] > 0
        assert row["bare_load_p50_s"] > 0
    swaps = found["serving"][0]["swaps"]
    assert (swaps["failed"], swaps["wrong_tokens"], swaps["first_token_p50_s"] > 0) == (0, 0, True)
    assert found["faiss"]["cpu"]["recall"] > 0.9
    page = (tmp_path / "gpu.md").read_text()
    assert DRY in page
    assert page in ended.stdout
