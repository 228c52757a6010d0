"""Removes personal data from texts before they are stored. The removal (redaction) is done by a function that the
operator names, the hook.

`redact_common` is a ready-made hook. `shown_error` makes engines' error messages safe to show to clients.
"""

import importlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from pointsman_servicekit.logs import mask_secrets

log = logging.getLogger(__name__)

Redact = Callable[[str], str]

MAX_ERROR_CHARACTERS = 2000
"""Maximum number of characters of an engine's error message that clients get; longer messages are cut."""
MAX_PARAM_CHARACTERS = 200
"""An engine's error may name the parameter that caused it. This is the maximum number of characters of the name that
clients get; longer names are cut."""

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_NUMBER = re.compile(r"(?<![\w.,])(?:\+|\(|00)?\d(?:[ ./()-]{0,2}\d){6,24}(?!\w)")
"""Matches 7 to 25 digits, with at most two separators between two digits, such as a phone number."""
_DATE = re.compile(r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4})(?:[ T]\d.*)?")


class InvalidHook(ValueError):
    """Raised if the setting for the redaction hook does not name a function that can be imported."""


class NotRedacted(Exception):
    """Raised if the redaction hook fails. The text must then not be stored. The exception's message does not contain
    the text.
    """


class Redaction:
    """Removes personal data from texts before they are stored, by the function that the operator names (the hook)."""

    def __init__(self, hook: Redact | None = None, failed: Callable[[], None] = lambda: None) -> None:
        """Takes the `hook`; if it is None, texts are left unchanged. The function `failed` is called each time the hook
        fails.
        """
        self._hook = hook
        self._failed = failed

    def text(self, text: str) -> str:
        """Returns the text as the hook has redacted it; an empty text is returned without calling the hook.

        Raises NotRedacted if the hook raises an error or does not return a string.
        """
        if self._hook is None or not text:
            return text
        try:
            redacted = self._hook(text)
        except Exception as error:  # fail closed
            self._failed()
            log.error("the redaction hook failed (%s): the text is not stored", type(error).__name__)
            raise NotRedacted("the redaction hook failed") from None
        if not isinstance(redacted, str):
            self._failed()
            log.error(
                "the redaction hook returned %s instead of a string: the text is not stored", type(redacted).__name__
            )
            raise NotRedacted("the redaction hook returned no text")
        return redacted

    def or_nothing(self, text: str) -> str:
        """Returns the text as the hook has redacted it, or an empty text if the hook fails."""
        try:
            return self.text(text)
        except NotRedacted:
            return ""

    def everywhere(self, value: Any) -> Any:
        """Returns a copy of a JSON value with every string redacted, except the keys of objects; tuples become lists.

        Raises NotRedacted if the hook fails.
        """
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.everywhere(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.everywhere(part) for part in value]
        return value

    def leaves(self, text: str) -> bool:
        """Returns whether the text is free of personal data: True if the hook would not change it, False if the hook
        changes it or fails.
        """
        try:
            return self.text(text) == text
        except NotRedacted:
            return False


def load_hook(name: str) -> Redact | None:
    """Imports the redaction hook, a function, from its `name` ("module:function"); None if `name` is empty.

    Raises InvalidHook if the name has another form, the import raises an exception, or the module has no such function.
    """
    if not name:
        return None
    module, _, function = name.partition(":")
    if not module or not function:
        raise InvalidHook(f"'{name}' is no hook; write MODULE:FUNCTION, for example {__name__}:redact_common")
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever the operator's module raises while it is imported
        raise InvalidHook(f"the hook '{name}' cannot be imported: {type(error).__name__}: {error}") from error
    try:
        found = getattr(imported, function)
    except AttributeError:
        raise InvalidHook(f"the module '{module}' has no '{function}'") from None
    if not callable(found):
        raise InvalidHook(f"'{name}' is no function")
    hook: Redact = found
    return hook


def shown_error(text: str, max_characters: int = MAX_ERROR_CHARACTERS) -> str:
    """Returns an engine's error message in a form that clients may see: secrets are masked (`mask_secrets`).

    If it has more than `max_characters`, it is cut there, and ends with "…".
    """
    shown = mask_secrets(text[: 2 * MAX_ERROR_CHARACTERS])
    return shown if len(shown) <= max_characters else f"{shown[:max_characters]}…"


def redact_common(text: str) -> str:
    """Replaces everything that looks like an e-mail address, a card number, a phone number or a secret (`mask_secrets`)
    by "[email]", "[card]", "[phone]" or "[key]".

    A card number has 12 to 19 digits and the right check digit. A phone number has 7 to 15 digits and begins with "+",
    "(" or 0, or has at least 9 digits with separators. Dates and other numbers stay.
    """
    text = mask_secrets(text, "[key]")
    text = _EMAIL.sub("[email]", text)
    return _NUMBER.sub(_redact_number, text)


def _redact_number(match: re.Match[str]) -> str:
    number = match[0]
    digits = "".join(filter(str.isdigit, number))
    if 12 <= len(digits) <= 19 and _luhn(digits):
        return "[card]"
    if _DATE.fullmatch(number):
        return number
    marked = number[0] in "+(" or number.startswith("0")
    grouped = any(mark in number for mark in " -/()") or "." in number[1:]
    return "[phone]" if 7 <= len(digits) <= 15 and (marked or (grouped and len(digits) >= 9)) else number


def _luhn(digits: str) -> bool:
    """Returns whether the digits pass the check for card numbers of ISO/IEC 7812-1, annex B.

    Every second digit from the right is doubled, and 9 is subtracted if the result has two digits. The sum of all must
    be a multiple of ten.
    """
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(number - 9 if number > 9 else number for number in doubled)) % 10 == 0
