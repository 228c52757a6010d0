"""What must not be kept of the texts that the gateway keeps: a hook from text to text, and a ready one."""

import importlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from pointsman_servicekit.logs import mask_secrets

log = logging.getLogger(__name__)

Redact = Callable[[str], str]


class BadHook(ValueError):
    """The setting names no function that could be a hook."""


class NotRedacted(Exception):
    """The hook failed: the text must not be kept. It says nothing of the text."""


class Redaction:
    """The hook, failing closed."""

    def __init__(self, hook: Redact | None = None, failed: Callable[[], None] = lambda: None) -> None:
        """None leaves every text as it is; `failed` counts."""
        self._hook = hook
        self._failed = failed

    @property
    def is_on(self) -> bool:
        return self._hook is not None

    def text(self, text: str) -> str:
        """As it may be kept. Raises NotRedacted where the hook raises, or returns something else than a text."""
        if self._hook is None or not text:
            return text
        try:
            redacted = self._hook(text)
        except Exception as error:  # whatever it is, the text is not kept
            self._failed()
            log.error("the redaction hook failed (%s): the text is not kept", type(error).__name__)
            raise NotRedacted("the redaction hook failed") from None
        if not isinstance(redacted, str):
            self._failed()
            log.error("the redaction hook returned %s, no text: nothing is kept", type(redacted).__name__)
            raise NotRedacted("the redaction hook returned no text")
        return redacted

    def or_nothing(self, text: str) -> str:
        """As it may be kept; empty where the hook fails."""
        try:
            return self.text(text)
        except NotRedacted:
            return ""

    def everywhere(self, value: Any) -> Any:
        """Every text in an object or a list, as it may be kept. Raises NotRedacted."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.everywhere(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [self.everywhere(part) for part in value]
        return value

    def leaves(self, text: str) -> bool:
        """Whether the text may be kept just as it is: the hook would change nothing in it."""
        try:
            return self.text(text) == text
        except NotRedacted:
            return False


def load_hook(name: str) -> Redact | None:
    """The function that "module:function" names; None for the empty name. Raises BadHook."""
    if not name:
        return None
    module, _, function = name.partition(":")
    if not module or not function:
        raise BadHook(f"'{name}' is no hook; write MODULE:FUNCTION, for example {__name__}:redact_common")
    try:
        found = getattr(importlib.import_module(module), function)
    except ImportError as error:
        raise BadHook(f"the hook '{name}' cannot be imported: {error}") from error
    except AttributeError:
        raise BadHook(f"the module '{module}' has no '{function}'") from None
    if not callable(found):
        raise BadHook(f"'{name}' is no function")
    hook: Redact = found
    return hook


def redact_common(text: str) -> str:
    """E-mail addresses, card numbers, numbers that look like telephones', and keys: each by its sort in brackets."""
    text = mask_secrets(text, "[key]")
    text = _EMAIL.sub("[email]", text)
    return _NUMBER.sub(_told, text)


_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_NUMBER = re.compile(r"(?<![\w.,])(?:\+|\(|00)?\d(?:[ ./()-]{0,2}\d){6,24}(?!\w)")
"""Digits with little between them."""
_DATE = re.compile(r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{4})(?:[ T]\d.*)?")


def _told(match: re.Match[str]) -> str:
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
    """ISO/IEC 7812-1, annex B: every second digit from the right is doubled; the sum of all is a multiple of ten."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(number - 9 if number > 9 else number for number in doubled)) % 10 == 0
