"""`pointsman predict --scores FILE` reads CSV, JSONL and Parquet alike; errors name what is wrong in a file."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_lab.prediction.scores_file import read_scores

ROWS: list[dict[str, Any]] = [
    {"text": "Hello", "path": "small", "score": 0.0, "cost": 0.001},
    {"text": "Hello", "path": "large", "score": 1.0, "cost": 0.01},
    {"text": "What, then?", "path": "large", "score": 0.5, "cost": None},
    {"text": "Hello", "path": "small", "score": 1.0, "cost": 0.003},
]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    if file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, ["text", "path", "score", "cost"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        arrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(arrow.Table.from_pylist([{"more": 1, **row} for row in rows]), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_each_format_gives_the_same_evaluation(tmp_path: Path, suffix: str) -> None:
    found = read_scores(write(tmp_path / f"scores{suffix}", ROWS))
    assert (list(found.texts), found.paths) == (["Hello", "What, then?"], ("small", "large"))
    np.testing.assert_array_equal(found.scores, [[0.5, 1], [np.nan, 0.5]])
    np.testing.assert_allclose(found.usd, [[0.002, 0.01], [np.nan, np.nan]])
    np.testing.assert_allclose(found.mean_usd, [0.002, 0.01])
    np.testing.assert_array_equal(found.lengths, [5, 11])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, r"row 2: 'text' is missing; the columns are text, path, score, cost"),
        ({"path": None}, r"row 2: 'path' is missing"),
        ({"score": "good"}, r"row 2: the score 'good' is not a number"),
        ({"score": 1.5}, r"row 2: the score 1.5 is not between 0 and 1"),
        ({"score": "nan"}, r"row 2: the score nan is not between 0 and 1"),
        ({"cost": -1}, r"row 2: the cost -1 is not a number of dollars"),
        ({"cost": "inf"}, r"row 2: the cost inf is not a number of dollars"),
        ({"cost": ""}, r"has no cost of path 'large': write dollars into the column 'cost' of some of its rows"),
        ({"path": "small"}, r"has no cost of path 'large'"),
    ],
)
def test_a_mistake_is_named_with_its_row(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [ROWS[0], ROWS[1] | change, *ROWS[2:]]
    with pytest.raises(ConfigError, match=message):
        read_scores(write(tmp_path / "scores.csv", rows))


def test_an_answer_of_unknown_cost_leaves_the_mean_of_the_others(tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0] | {"cost": None}, ROWS[1] | {"score": 0.5, "cost": ""}]
    found = read_scores(write(tmp_path / "scores.csv", rows))
    np.testing.assert_allclose(found.usd[0], [0.002, 0.01])
    np.testing.assert_allclose(found.scores[0], [1 / 3, 0.75])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0] | {"text": [{"role": "user"}]}, r"row 1: 'text' is not a text"),
        ([ROWS[0]], r"row 1 is not a JSON object; write one for each answer"),
    ],
)
def test_a_row_that_is_no_answer_is_named(tmp_path: Path, row: object, message: str) -> None:
    (tmp_path / "scores.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=message):
        read_scores(tmp_path / "scores.jsonl")


def test_a_csv_may_have_long_texts_and_no_cell_beyond_its_header(tmp_path: Path) -> None:
    file, long = tmp_path / "scores.csv", "word " * 40_000
    file.write_text(f"path,score,cost,text\nsmall,1,0.1,{long}\nlarge,1,0.1,{long}\n")
    assert read_scores(file).lengths == [len(long)]
    file.write_text("path,score,cost,text\nsmall,1,0.1,Hello, you\n")
    with pytest.raises(ConfigError, match="row 1 has more cells than the header; quote texts with commas"):
        read_scores(file)


@pytest.mark.parametrize(("paths", "is_read"), [(1, False), (2, True), (50, True), (51, False)])
def test_two_to_fifty_paths_are_compared(tmp_path: Path, paths: int, is_read: bool) -> None:
    file = write(tmp_path / "scores.jsonl", [ROWS[0] | {"path": f"p{number}"} for number in range(paths)])
    if is_read:
        assert len(read_scores(file).paths) == paths
        return
    with pytest.raises(ConfigError, match=f"has scores of {paths} paths?; 2 to 50 are compared"):
        read_scores(file)


def test_files_that_are_no_scores_are_refused(tmp_path: Path) -> None:
    for name, message in (("a.txt", "known: .csv, .jsonl, .parquet"), ("none.csv", "cannot be read")):
        with pytest.raises(ConfigError, match=message):
            read_scores(tmp_path / name)
    (tmp_path / "scores.parquet").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read|needs pyarrow, which is not installed"):
        read_scores(tmp_path / "scores.parquet")


@pytest.mark.parametrize("line", ["{", "1" * 5000, "[" * 100_000])
def test_a_row_that_is_not_json_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "scores.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(ConfigError, match=r"scores\.jsonl, row 2 is not JSON: "):
        read_scores(tmp_path / "scores.jsonl")
