"""Changes valid JSON and bytes at random. Every function takes its `Random`, so a seed reproduces its result."""

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Node = dict[str, Any] | list[Any]

ODD_VALUES: Sequence[Any] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**64),
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "\ud800",
    "\ufeff",
    "auto",
    "none",
    "é" * 40,
    "a" * 5_000,
    "{}",
    "[",
    "data:,",
    "data:image/png;base64,AAAA",
    "http://[",
    "file:///etc/passwd",
    "../../x",
    "${HOME}",
    "{{ 7 * 7 }}",
    "(a+)+$",
    "text",
    "object",
    "function",
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    [None],
    ["a", 1, {}],
    {"type": []},
    {"type": {}},
    {"type": "text"},
    {"$ref": "#"},
)
ODD_NAMES = ("type", "role", "content", "text", "name", "id", "index", "error", "usage", "model", "", "\ud800", "$ref")
MAX_CHANGES = 4


def change_json(random: Random, value: Any, most: int = MAX_CHANGES) -> Any:
    """Returns a copy with 1 to `most` changes, each at any depth."""
    changed = copy.deepcopy(value)
    for _ in range(random.randint(1, most)):
        nodes = list(_nodes(changed))
        if not nodes or random.random() < 0.02:
            changed = odd_value(random)
        else:
            random.choice(_CHANGES)(random, random.choice(nodes))
    return changed


def odd_value(random: Random) -> Any:
    if random.random() < 0.05:
        return deep(random, random.choice((10, 31, 33, 65, 200)))
    return copy.deepcopy(random.choice(ODD_VALUES))


def deep(random: Random, levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


def _nodes(value: Any) -> list[Node]:
    """Returns the objects and lists in `value` that have members, itself included."""
    found: list[Node] = []
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list) and node:
            found.append(node)
            waiting += node.values() if isinstance(node, dict) else node
    return found


def _place(random: Random, node: Any) -> Any:
    return random.choice(list(node)) if isinstance(node, dict) else random.randrange(len(node))


def _replace(random: Random, node: Any) -> None:
    if node:
        node[_place(random, node)] = odd_value(random)


def _remove(random: Random, node: Any) -> None:
    if node:
        del node[_place(random, node)]


def _wrap(random: Random, node: Any) -> None:
    if node:
        place = _place(random, node)
        node[place] = [node[place]] if random.random() < 0.5 else {"text": node[place]}


def _add(random: Random, node: Any) -> None:
    if isinstance(node, dict):
        node[random.choice(ODD_NAMES)] = odd_value(random)
    else:
        node.insert(random.randint(0, len(node)), odd_value(random))


def _repeat(random: Random, node: Any) -> None:
    if isinstance(node, list) and node:
        node += [copy.deepcopy(random.choice(node))] * random.choice((1, 2, 40, 1100))


def _swap(random: Random, node: Any) -> None:
    """Exchanges two values, which often have different types."""
    if len(node) > 1:
        one, other = _place(random, node), _place(random, node)
        node[one], node[other] = node[other], node[one]


_CHANGES: Sequence[Callable[[Random, Any], None]] = (_replace, _replace, _replace, _remove, _wrap, _add, _repeat, _swap)


def encode(random: Random, value: Any) -> bytes:
    """Encodes as JSON, sometimes in an unusual form."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    return text.encode("utf-16" if random.random() < 0.01 else "utf-8", "surrogatepass")


PIECES = (
    b"\0",
    b"\r\n",
    b"\n\n",
    b"\r",
    b"data: ",
    b"event: error\n",
    b"[DONE]",
    b"{",
    b"}",
    b"[[[[",
    b'"',
    b"\\u0000",
    b"\xff\xfe",
    b"\xc3",
    b",",
    b"1e999",
    b"-",
    b"null",
    b" ",
    b":" * 20,
    b"a" * 3000,
    b"0\r\n\r\n",
    b"ffffffff\r\n",
)


def change_bytes(random: Random, data: bytes, most: int = MAX_CHANGES) -> bytes:
    """Returns the bytes with 1 to `most` of them replaced, removed, repeated, cut off, or with others inserted."""
    changed = bytearray(data)
    for _ in range(random.randint(1, most)):
        begin = random.randint(0, len(changed))
        end = min(len(changed), begin + random.choice((1, 1, 2, 8, 64)))
        match random.randrange(6):
            case 0 if changed:
                changed[begin % len(changed)] = random.randrange(256)
            case 1:
                del changed[begin:end]
            case 2:
                changed[begin:begin] = random.choice(PIECES)
            case 3:
                changed[begin:begin] = changed[begin:end] * random.choice((1, 3, 100))
            case 4:
                changed[begin:end] = random.choice(PIECES)
            case 5 if random.random() < 0.3:
                del changed[begin:]
    return bytes(changed)


def in_pieces(random: Random, data: bytes, most: int = 12) -> list[bytes]:
    """Cuts the bytes at up to `most` places."""
    places = sorted(random.randint(0, len(data)) for _ in range(random.randint(0, most)))
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True) if begin < end]
