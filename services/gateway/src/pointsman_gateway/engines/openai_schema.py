"""What engines write in other shapes than OpenAI's, brought into OpenAI's: nothing behind it expects another."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec


class OddDelta(ValueError):
    """Nothing can be made of it."""


class _Alternative(msgspec.Struct, gc=False):
    token: str
    logprob: float | None = None
    bytes: list[int] | None = None


class _Token(_Alternative, gc=False):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Token] | None = None


def are_logprobs(told: Any) -> bool:
    """Whether they are what a conversation's or a completion's log-probabilities look like."""
    if not isinstance(told, dict):
        return False
    try:
        msgspec.convert(told, _Logprobs)
    except msgspec.MsgspecError:
        return False
    return True


class Straightened:
    """The deltas of one stream."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[int, str]] = {}
        """By choice, the last tool call that had no number of its own: the one it was given, and its id."""

    def taken_apart(self, choice: int, delta: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
        """The text; all else but the role; and whether that is what the delta says word for word. Raises OddDelta.

        Of content in parts only the text is taken. A call that has no number has the next one, where it brings a name
        or an id of its own, else that of the call before it.
        """
        content = delta.get("content")
        text = _text(content)
        rest = {key: value for key, value in delta.items() if key not in ("role", "content") and value is not None}
        as_it_came = content is None or text is content
        if "tool_calls" in rest:
            calls = rest.pop("tool_calls")
            straight = self._straight_calls(choice, calls if isinstance(calls, list) else [calls])
            as_it_came = as_it_came and straight == calls
            if straight:
                rest["tool_calls"] = straight
        if "function_call" in rest:
            call = rest["function_call"]
            rest["function_call"] = _function(call)
            as_it_came = as_it_came and rest["function_call"] == call
        return text, rest, as_it_came

    def _straight_calls(self, choice: int, calls: list[Any]) -> list[dict[str, Any]]:
        return [self._straight_call(choice, call) for call in calls]

    def _straight_call(self, choice: int, call: Any) -> dict[str, Any]:
        if not isinstance(call, dict):
            raise OddDelta("a tool call is no object")
        straight = dict(call)
        if call.get("function") is not None:
            straight["function"] = _function(call["function"])
        if isinstance(call.get("id"), int):
            straight["id"] = str(call["id"])
        elif not isinstance(call.get("id"), str | None):
            raise OddDelta("a tool call's id is no text")
        number = call.get("index")
        if number is None:
            straight["index"] = self._number(choice, straight)
        elif type(number) is not int or number < 0:
            raise OddDelta("a tool call's index is no number from 0")
        return straight

    def _number(self, choice: int, call: Mapping[str, Any]) -> int:
        number, last_id = self._calls.get(choice, (-1, ""))
        call_id = call.get("id") or ""
        begins = call_id != last_id if call_id else bool((call.get("function") or {}).get("name"))
        if begins or number < 0:
            number, last_id = number + 1, call_id
        self._calls[choice] = number, last_id
        return number


def _text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise OddDelta("content is neither text nor parts")
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type", "text") == "text"]
    return "".join([text for text in parts if isinstance(text, str)])


def _function(function: Any) -> dict[str, Any]:
    if not isinstance(function, dict):
        raise OddDelta("a called function is no object")
    straight, arguments = dict(function), function.get("arguments")
    if isinstance(arguments, dict | list):
        straight["arguments"] = json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)
    if not all(isinstance(straight.get(key), str | None) for key in ("name", "arguments")):
        raise OddDelta("a called function's name and arguments are no texts")
    return straight
