"""The benchmark of real requests: which messages it reports, and what it says of a part that it cannot measure."""

import json
from pathlib import Path
from typing import Any

import pytest
from pointsman_embedding import EncoderConfig

from benchmarks.requests import wrappers
from benchmarks.requests.__main__ import PARTS
from benchmarks.requests.languages import open_if_installed
from benchmarks.requests.sgd_dialogues import FITTING, ONE_IN, VALIDATION, development_rows

SETS = {"development": wrappers.of_development, "reported": wrappers.reported, "later": wrappers.later}


@pytest.mark.parametrize("name", SETS)
def test_each_message_has_a_place_for_the_users_text(name: str) -> None:
    messages = SETS[name]()
    assert len(messages) > 40
    assert {key for key, message in messages.items() if wrappers.MARK not in message} == set()


def test_no_message_is_both_reported_and_for_development() -> None:
    texts = [text for messages in SETS.values() for text in messages().values()]
    assert len(texts) == len(set(texts))


def test_all_tables_are_printed_without_options() -> None:
    assert PARTS == ("texts", "conversations", "broad", "documents", "mixed", "languages")


def test_a_line_says_what_is_missing_for_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = EncoderConfig(folder=tmp_path / "not_there", multilingual=True)
    assert open_if_installed("multilingual", config, tmp_path) is None
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("multilingual: not measured: ")


def turn(text: str, *intents: str, speaker: str = "USER") -> dict[str, Any]:
    return {"speaker": speaker, "utterance": text, "frames": [{"state": {"active_intent": one}} for one in intents]}


def clone_of(folder: Path, *turns: dict[str, Any]) -> Path:
    """Writes a clone of SGD in which every dialogue has the same turns."""
    for part in ONE_IN:
        (folder / part).mkdir()
        dialogues = [{"dialogue_id": f"1_{number}", "turns": turns} for number in range(400)]
        (folder / part / "dialogues_001.json").write_text(json.dumps(dialogues))
    return folder


DIALOGUE = (
    turn("a bus to Fresno", "FindBus"),
    turn("When?", speaker="SYSTEM"),
    turn("tomorrow", "FindBus"),
    turn("There is one at 8.", speaker="SYSTEM"),
    turn("and a museum there", "FindBus", "FindMuseum"),
    turn("Here is one.", speaker="SYSTEM"),
    turn("thanks", "NONE"),
)


def test_turns_of_other_dialogues_continue_open_or_have_no_task(tmp_path: Path) -> None:
    rows = list(development_rows(clone_of(tmp_path, *DIALOGUE), FITTING, {"FindBus"}, ()))
    assert [(row["turns"][-1]["content"], row["label"], row["opens"]) for row in rows] == [
        ("a bus to Fresno", "FindBus", True),
        ("tomorrow", "FindBus", False),
        ("and a museum there", None, True),
    ]
    assert [len(row["turns"]) for row in rows] == [1, 3, 5]


def test_dialogues_with_an_example_are_not_used_for_development(tmp_path: Path) -> None:
    clone = clone_of(tmp_path, *DIALOGUE)
    assert [list(development_rows(clone, half, {"FindBus"}, {"tomorrow"})) for half in (FITTING, VALIDATION)] == [
        [],
        [],
    ]


def test_no_dialogue_is_in_both_halves(tmp_path: Path) -> None:
    clone = clone_of(tmp_path)
    for part in ONE_IN:
        names = [{"dialogue_id": f"1_{n}", "turns": [turn(f"{part} {n}", "FindBus")]} for n in range(400)]
        (clone / part / "dialogues_001.json").write_text(json.dumps(names))
    fitting, validation = (
        {row["turns"][0]["content"] for row in development_rows(clone, half, {"FindBus"}, ())}
        for half in (FITTING, VALIDATION)
    )
    assert fitting
    assert validation
    assert fitting.isdisjoint(validation)
