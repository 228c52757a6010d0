"""The first hour with the real engine and a real training: the page of `test_journey.py`, a little smaller.

The second training is shorter, 20 of the 60 test rows are compared, and versions move by force, since so few rows need
not prove that the shorter training beats prompting. The engine's environment is that of the clone.
"""

import os
import re
from pathlib import Path

from tests.ports import free_address
from tests.quickstart.installation import ROOT
from tests.quickstart.user import PAGE, install, start_user

ENGINE_PYTHON = Path(os.environ.get("POINTSMAN_ENGINE_PYTHON", ROOT / ".venv-engine" / "bin" / "python"))
MIN_SCORE = 0.5
"""Minimum share of right labels by the adapter; one of ten labels by chance is 0.1."""


async def test_the_first_hour_with_the_real_engine_and_training(tmp_path: Path) -> None:
    user = start_user(tmp_path, ENGINE_PYTHON)
    await install(user)
    _, init, start, ask, train, compare, choose, replace = PAGE
    await user.shell(init)
    edits, _ = start.rstrip().rsplit("\n", 1)
    assert "examples are classified right" in await user.shell(edits)

    async with user.up(free_address()):
        asked = await user.shell(ask)
        assert "path first" in asked
        assert "expected cost" in asked

        trained = await user.shell(train)
        assert re.search(r"exact 0\.\d+ against 0\.\d+", trained), trained
        first = re.findall("registered as (intent@[0-9a-f]{12}) \\(intent@prod\\)", trained)
        assert first, trained

        compared = await user.shell(smaller(compare, "--metric exact", "--metric exact --limit 20"))
        score = re.search(r"intent +lora +(\d\.\d+)", compared)
        assert score, compared
        assert float(score[1]) >= MIN_SCORE, compared

        await user.shell(choose)
        await user.until_routed("policy:best_value")

        moved = await user.shell(forced(smaller(replace, "--epochs 5", "--epochs 1 --min-epochs 0")))
        second = re.findall("for 0.1 of its users to (intent@[0-9a-f]{12})", moved)
        assert second, moved
        assert second != first
        promoted, rolled_back = moved.rstrip().splitlines()[-2:]
        assert promoted.startswith(f"intent@prod points to {second[0]}")
        assert rolled_back.startswith(f"intent@prod points to {first[0]}")
        answer = await user.shell('pointsman ask --model path:intent "I left my umbrella on the 9:15 to Saltby"')
        assert "path intent" in answer


def smaller(script: str, page: str, here: str) -> str:
    assert script.count(page) == 1, page
    return script.replace(page, here)


def forced(script: str) -> str:
    """Adds --force to the commands that give a version to users."""
    moves = re.compile(r"^(pointsman adapters (?:canary|promote) .*)$", re.MULTILINE)
    assert len(moves.findall(script)) == 2
    return moves.sub(r"\1 --force", script)
