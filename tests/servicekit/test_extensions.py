"""Implementations are found by name: built in, by entry point, or as module:attribute."""

import sys
from pathlib import Path

import pytest
from pointsman_servicekit import extensions
from pointsman_servicekit.errors import FailedPrecondition
from pointsman_servicekit.extensions import load_extension

BUILTINS = {"join": "posixpath:join", "missing": "no_such_package.module:thing"}


def load(name: str) -> object:
    return load_extension(name, setting="SOME_SETTING", group="pointsman.tests", builtins=BUILTINS)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes `shout`, and another `join`, in the group by an installed distribution."""
    info = tmp_path / "shouting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pointsman.tests]\nshout = shouting:Voice.shout\njoin = shouting:Voice\n")
    (tmp_path / "shouting.py").write_text("class Voice:\n    shout = str.upper\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shouting", raising=False)


def test_a_built_in_name_is_found() -> None:
    import posixpath

    assert load("join") is posixpath.join


def test_module_and_attribute_are_found() -> None:
    assert load("json:JSONDecoder.decode").__name__ == "decode"  # type: ignore[attr-defined]  # it is a function


def test_the_packages_are_searched_once_for_many_names(published: None, monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[str] = []

    def search(group: str) -> list[object]:
        searches.append(group)
        return []

    monkeypatch.setattr(extensions, "entry_points", search)
    for number in range(20):
        with pytest.raises(FailedPrecondition):
            load(f"unknown-{number}")
    assert searches == ["pointsman.tests"]


def test_an_entry_point_is_found_and_a_built_in_name_wins(published: None) -> None:
    import posixpath

    assert load("shout") is str.upper
    assert load("join") is posixpath.join


def test_an_unknown_name_is_refused_with_the_known_ones(published: None) -> None:
    with pytest.raises(FailedPrecondition, match=r"SOME_SETTING is 'whisper'.*join, missing, shout") as raised:
        load("whisper")
    assert raised.value.code == "unknown_extension"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_package:thing", "ModuleNotFoundError"),
        ("json:no_such_attribute", "no_such_attribute"),
        ("missing", "no_such_package"),
        ("json:", "AttributeError"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(FailedPrecondition, match=reason) as raised:
        load(name)
    assert raised.value.code == "extension_not_importable"
