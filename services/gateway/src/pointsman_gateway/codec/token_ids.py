"""Keeps the token ids that a client sends as encoded JSON until they are used, because as Python's integers they would
take six times the memory.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any

import msgspec
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from pointsman_gateway.codec.json_body import decode_json

_BLANKS = b" \t\r\n"
_TO_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_IN_IDS = b"0123456789[]," + _BLANKS
_SHORT_DIGITS = 9
"""A number with at most this many digits is a valid token id. A list with a longer number is decoded to check its
range."""
_LISTS = re.compile(rb"\[[^\[\]]*\]")

_Id = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_decode_ids = msgspec.json.Decoder(list[_Id]).decode
_decode_lists = msgspec.json.Decoder(list[list[_Id]]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class TokenIds:
    """The token ids that a client sends instead of texts, as one list for each text. The lists are kept as JSON until
    they are used.
    """

    def __init__(self, encoded: msgspec.Raw, spans: Sequence[tuple[int, int, int]]) -> None:
        """Takes the JSON of all lists, and for each list a tuple (start in the JSON, end in the JSON, number of ids);
        start and end are offsets in bytes.
        """
        self.encoded = encoded
        self._spans = spans

    @cached_property
    def counts(self) -> Sequence[int]:
        """Returns the number of token ids in each list, in the order of the lists."""
        return [count for _, _, count in self._spans]

    def decode(self, number: int) -> list[int]:
        """Returns the token ids of the text at position `number`, counted from 0."""
        start, end, _ = self._spans[number]
        return _decode_ids(memoryview(self.encoded)[start:end])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        ids = {"type": "array", "items": {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}}
        return {"anyOf": [ids, {"type": "array", "items": ids}]}


def decode_with_token_ids(text: bytes, name: str) -> Any:
    """Decodes a JSON object, and replaces token ids in the field `name` by a `TokenIds`.

    Token ids are a list of integers that is not empty, or a list of lists of integers; any other value is decoded as
    usual. Raises InvalidArgument if the JSON is malformed, or has a lone surrogate or a number that is not finite.
    """
    try:
        fields = _decode_fields(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return decode_json(text)  # it describes what is wrong
    encoded = fields.pop(name, None)
    token_ids = None if encoded is None else _find_token_ids(encoded)
    if token_ids is None:
        return decode_json(text)
    return {**decode_json(msgspec.json.encode(fields)), name: token_ids}


def _find_token_ids(encoded: msgspec.Raw) -> TokenIds | None:
    """Returns the token ids if the JSON is a list of token ids that is not empty, or a list of lists; None otherwise.

    The JSON is decoded only if a number has more than `_SHORT_DIGITS` digits, to check the number's range.
    """
    view = memoryview(encoded)
    if bytes(view[:2]) == b'["' or bytes(view[:1]) != b"[":
        return None
    text = bytes(view)
    if text.translate(None, _IN_IDS):
        return None
    zeros = text.translate(_TO_ZEROS)
    structure = zeros.translate(None, b"0" + _BLANKS)
    has_long_numbers = b"0" * (_SHORT_DIGITS + 1) in zeros
    lists = structure.count(b"[") - 1
    if lists == 0:
        count = _count(text, 0, len(text))
        if not count or (has_long_numbers and not _is_decodable(text, _decode_ids)):
            return None
        return TokenIds(encoded, [(0, len(text), count)])
    between = structure.count(b"],[")
    if structure[1:2] != b"[" or structure.count(b"[[") > 1 or structure.count(b"]]") != 1 or between != lists - 1:
        return None
    if has_long_numbers and not _is_decodable(text, _decode_lists):
        return None
    spans = [match.span() for match in _LISTS.finditer(text)]
    return TokenIds(encoded, [(start, end, _count(text, start, end)) for start, end in spans])


def _is_decodable(text: bytes, decode: Callable[[bytes], Any]) -> bool:
    try:
        decode(text)
    except msgspec.ValidationError:
        return False
    return True


def _count(text: bytes, start: int, end: int) -> int:
    commas = text.count(b",", start, end)
    return commas + 1 if commas or text[start + 1 : end - 1].strip() else 0
