"""The command `pointsman prices import` shows the differences, and writes only on request."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

CONFIG = """\
prices_as_of: 2026-01-01
models:
  mini: {context_window: 8192, usd_per_million_tokens: {prompt: 2, cached: 1, completion: 4}} # ours
engines: {openai: {model: mini, provider: openai, upstream: gpt-9, api_key_env: KEY}}
"""
ENTRY = {"litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 4e-06}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text(CONFIG)
    (tmp_path / "tasks.yaml").write_text("{}")
    (tmp_path / "table.json").write_text(json.dumps({"gpt-9": ENTRY}))
    return tmp_path


def test_the_difference_is_printed_and_written_on_demand(cli: Cli, folder: Path) -> None:
    shown = cli("prices", "import", folder, "--from", folder / "table.json")
    assert shown.code == 0, shown.err
    for told in ("mini", "prompt", "-50%", "--write writes the prices"):
        assert told in shown.out
    assert (folder / "models.yaml").read_text() == CONFIG
    done = cli("prices", "import", folder, "--from", folder / "table.json", "--write", "--json")
    assert json.loads(done.out)["written"] == str(folder / "models.yaml")
    assert "{prompt: 1, cached: 1, completion: 4}} # ours" in (folder / "models.yaml").read_text()


def test_a_wrong_entry_ends_with_code_1_and_its_name(cli: Cli, folder: Path) -> None:
    (folder / "table.json").write_text(json.dumps({"gpt-9": {**ENTRY, "input_cost_per_token": -1}}))
    outcome = cli("prices", "import", folder, "--from", folder / "table.json", "--write")
    assert outcome.code == 1
    assert "error: model 'mini' is not imported: 'gpt-9': input_cost_per_token is negative (-1)" in outcome.err
    assert (folder / "models.yaml").read_text() == CONFIG


def test_the_package_is_named_if_it_is_not_installed(cli: Cli, folder: Path) -> None:
    outcome = cli("prices", "import", folder, "--from", "litellm")
    assert outcome.code == 1
    assert "pip install litellm" in outcome.err
