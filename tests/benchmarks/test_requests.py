"""The benchmark of real requests: which messages it reports, and what it says of a part that it cannot measure."""

from pathlib import Path

import pytest
from pointsman_embedding import EncoderConfig

from benchmarks.requests import wrappers
from benchmarks.requests.__main__ import PARTS
from benchmarks.requests.languages import open_if_installed

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
