"""The redaction hook determines the text that is stored; if it fails, no text is."""

import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.redaction import InvalidHook, NotRedacted, Redaction, load_hook, redact_common

from tests.cpu_time import cpu_seconds

SECRET = "my card is 4111 1111 1111 1111"


@pytest.fixture
def hooks() -> Iterator[Any]:
    """Yields a user's module with hooks."""
    module: Any = types.ModuleType("their_hooks")
    sys.modules["their_hooks"] = module
    yield module
    del sys.modules["their_hooks"]


def test_a_hook_is_found_by_its_name(hooks: Any) -> None:
    hooks.shorten = lambda text: text[:2]
    hook = load_hook("their_hooks:shorten")
    assert hook is not None
    assert Redaction(hook).text("hello") == "he"


def test_without_a_hook_texts_are_not_changed() -> None:
    redaction = Redaction(load_hook(""))
    assert redaction.text(SECRET) == SECRET
    assert redaction.leaves(SECRET)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shorten", "write MODULE:FUNCTION"),
        (":x", "write MODULE:FUNCTION"),
        ("no_such_module:x", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("their_hooks:nothing", "the module 'their_hooks' has no 'nothing'"),
        ("their_hooks:__name__", "is no function"),
    ],
)
def test_an_invalid_hook_is_rejected_at_the_start(hooks: Any, name: str, message: str) -> None:
    with pytest.raises(InvalidHook, match=message):
        load_hook(name)


@pytest.mark.parametrize(
    ("source", "error"),
    [("def redact(:", "SyntaxError: "), ("import os\nos.redact", "AttributeError: "), ("1 / 0", "Zero")],
)
def test_a_hook_whose_module_fails_is_named_with_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, error: str
) -> None:
    (tmp_path / "broken_hooks.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidHook, match=f"the hook 'broken_hooks:redact' cannot be imported: {error}"):
        load_hook("broken_hooks:redact")


def _raises(text: str) -> str:
    raise ValueError(f"cannot read {text}")


@pytest.mark.parametrize("hook", [_raises, lambda text: None, lambda text: text.encode()])
def test_a_failing_hook_stores_no_text_and_logs_none(hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    failures: list[int] = []
    redaction = Redaction(hook, lambda: failures.append(1))
    with pytest.raises(NotRedacted) as refused:
        redaction.text(SECRET)
    assert not redaction.leaves(SECRET)
    assert "4111" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert "4111" not in caplog.text
    assert len(failures) == len(caplog.records) == 2


def test_every_text_within_an_object_is_redacted() -> None:
    message = {"role": "tool", "content": SECRET, "parts": [{"n": 1, "text": "a@b.org"}, None, ("sk-0123456789",)]}
    assert Redaction(redact_common).everywhere(message) == {
        "role": "tool",
        "content": "my card is [card]",
        "parts": [{"n": 1, "text": "[email]"}, None, ["[key]"]],
    }
    with pytest.raises(NotRedacted):
        Redaction(_raises).everywhere(message)


def test_a_failing_hook_redacts_everything() -> None:
    assert Redaction(_raises).or_nothing(SECRET) == ""
    assert Redaction(redact_common).or_nothing(SECRET) == "my card is [card]"


def test_a_text_that_the_hook_would_change_is_detected() -> None:
    redaction = Redaction(redact_common)
    assert redaction.leaves("Bicycles ride free.")
    assert not redaction.leaves(SECRET)


COMMON = {
    "Write to ann.o'neil+x@mail.example.org.": "Write to ann.o'[email].",
    "a@b.co,c@d.org": "[email],[email]",
    SECRET: "my card is [card]",
    "4111-1111-1111-1111": "[card]",
    "5555555555554444 and 378282246310005": "[card] and [card]",
    "call +44 20 7946 0958 now": "call [phone] now",
    "call (020) 7946-0958": "call [phone]",
    "030/901820 or 0049 30 901820": "[phone] or [phone]",
    "555-867-5309": "[phone]",
    "the key pm_0123456789abcdef works": "the key [key] works",
    "sk-proj-0123456789abcdef": "[key]",
}


@pytest.mark.parametrize("text", COMMON)
def test_common_personal_data_is_replaced_by_its_kind(text: str) -> None:
    assert redact_common(text) == COMMON[text]


@pytest.mark.parametrize(
    "text",
    [
        "Booking AB12 for 2 adults on 2026-11-24 at 9:15",
        "It was 24.11.2026 10:20",
        "4111 1111 1111 1112 is no card",
        "1234567 tickets, or 12,345,678.90 in all",
        "version 1.2.3 @home, a @ b",
        "The 9:15 to Saltby costs $8.40",
        "id 20261124101522000001",
    ],
)
def test_other_text_is_not_changed(text: str) -> None:
    assert redact_common(text) == text


@pytest.mark.parametrize("piece", ["1", "1 ", "1-", "a@", "a.", "a@b.", "+", "(0", "4111 1111 "])
def test_redaction_takes_linear_time(piece: str) -> None:
    short, long = (cpu_seconds(partial(redact_common, piece * times)) for times in (4_000, 32_000))

    assert long < 24 * short + 0.05  # 8 times as much text; quadratic time would be 64 times as long
