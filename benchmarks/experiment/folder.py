"""Writes the example's folder with the experiment's additional paths, prompts and example answers."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXAMPLE = ROOT / "examples/helpdesk"

Row = Mapping[str, Any]


def write_folder(folder: Path, adapters: Mapping[str, Path]) -> Path:
    """Writes a folder for `pointsman up`; `adapters` are added to the example's, by name."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(EXAMPLE / "config", folder / "config")
    shutil.copytree(HERE / "prompts", folder / "config/prompts", dirs_exist_ok=True)
    _add_paths(folder / "config/paths.yaml")
    # The example has no answers for these two tasks, and few-shot prompts need them.
    write_rows(policy_answers(), folder / "config/tasks/policy_question.jsonl")
    write_rows(letters(), folder / "config/tasks/branded_reply.jsonl")
    _write_example_file(folder, adapters)
    return folder


def policy_answers() -> list[Row]:
    """Returns the example's policy questions, each with the sentence of the handbook that answers it."""
    return read_rows(HERE / "policy_answers.jsonl")


def letters() -> list[Row]:
    """Returns requests for a letter with their letters, from the training data of the example's voice adapter."""
    return [{"text": row["text"], "output": row["output"]} for row in read_rows(EXAMPLE / "training/letters.jsonl")]


def facts() -> list[Row]:
    """Returns the same requests as `letters`, each with the sentences of its letter that occur in the handbook."""
    rows: list[Row] = []
    for row in read_rows(EXAMPLE / "training/letters.jsonl"):
        page = (EXAMPLE / "handbook" / f"{row['document']}.md").read_text("utf-8")
        body = row["output"].split("\n\n")[1]
        stated = [sentence for sentence in body.replace(". ", ".\n").split("\n") if sentence in page]
        if stated:
            rows.append({"text": row["text"], "output": " ".join(stated)})
    return rows


def read_rows(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def write_rows(rows: Iterable[Row], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def _add_paths(file: Path) -> None:
    paths = yaml.safe_load(file.read_text("utf-8"))
    paths["paths"] |= yaml.safe_load((HERE / "paths.yaml").read_text("utf-8"))["paths"]
    file.write_text(yaml.safe_dump(paths, sort_keys=False), encoding="utf-8")


def _write_example_file(folder: Path, adapters: Mapping[str, Path]) -> None:
    example = yaml.safe_load((EXAMPLE / "pointsman.yaml").read_text("utf-8"))
    for entry in example["adapters"].values():
        entry["folder"] = str(EXAMPLE / entry["folder"])
    example["adapters"] |= {name: {"folder": str(at), "alias": "prod"} for name, at in adapters.items()}
    example["collections"] = {name: str(EXAMPLE / at) for name, at in example["collections"].items()}
    (folder / "pointsman.yaml").write_text(yaml.safe_dump(example, sort_keys=False), encoding="utf-8")
