"""YAML of the configuration: variables, aliases, depth and duplicate keys."""

import time
from datetime import date
from typing import Any

import pytest
import yaml
from pointsman_servicekit import strict_yaml
from pointsman_servicekit.yaml_variables import UnsetVariable, escape

VALUES = {
    "PORT": "8083", "RATIO": "0.5", "ON": "true", "NOTHING": "", "DAY": "2024-10-21", "TIME": "12:30", "NAME": "a",
    "EVIL": "x\nadmin: true # {y: *z}", "QUOTE": "it's \"5\"", "NESTED": "${NAME}", "MERGE": "<<",
}  # fmt: skip


def load(text: str) -> Any:
    return strict_yaml.load(text, VALUES)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${PORT}", 8083),
        ("'${PORT}'", "8083"),
        ('"${PORT}"', "8083"),
        ("!!int '${PORT}'", 8083),
        ("${RATIO}", 0.5),
        ("${ON}", True),
        ("${NOTHING}", None),
        ("'${NOTHING}'", ""),
        ("${DAY}", "2024-10-21"),
        ("${TIME}", "12:30"),
        ("${MERGE}", "<<"),
        ("${UNSET:-7}", 7),
        ("${UNSET:-}", None),
        ("${NAME:-7}", "a"),
        ("1${PORT}", "18083"),
        ("http://${NAME}:${PORT}/v1", "http://a:8083/v1"),
        ("${EVIL}", "x\nadmin: true # {y: *z}"),
        ("'${QUOTE}'", 'it\'s "5"'),
        ("${NESTED}", "${NAME}"),
        ("$${PORT}", "${PORT}"),
        ("'$$${PORT} $${NAME} ${NAME}'", "$${PORT} ${NAME} a"),
        ("${lower} $PORT {}", "${lower} $PORT {}"),
        ("|\n  first ${PORT}\n  second", "first 8083\nsecond\n"),
    ],
)
def test_a_variable_is_replaced_in_its_scalar_alone(written: str, read: Any) -> None:
    assert load(f"one: {written}\n") == {"one": read}


def test_a_key_may_have_a_variable() -> None:
    assert load("${NAME}: 1") == {"a": 1}
    with pytest.raises(yaml.YAMLError, match="'a' stands twice"):
        load("${NAME}: 1\na: 2")


def test_a_variable_in_a_comment_is_not_needed() -> None:
    assert load("a: 1 # ${UNSET}") == {"a": 1}


def test_the_line_of_an_unset_variable_is_known() -> None:
    with pytest.raises(UnsetVariable) as raised:
        load("a: ${NAME}\nb:\n  - ${UNSET}\nc: ${OTHER}")
    assert (raised.value.name, raised.value.line) == ("UNSET", 3)
    assert strict_yaml.load("a: ${UNSET}x", VALUES, unset="") == {"a": "x"}


def test_a_variable_may_stand_inside_braces_and_brackets() -> None:
    assert load("{a: ${PORT}, b: [${NAME}, '${PORT}', ${UNSET:-x y}], ${NAME}${NAME}: $${PORT}}") == {
        "a": 8083, "b": ["a", "8083", "x y"], "aa": "${PORT}",
    }  # fmt: skip


def test_an_error_shows_variables_as_they_are_written() -> None:
    with pytest.raises(yaml.YAMLError, match=r"line 2(.|\n)*c: \$\{NAME\}: \[") as raised:
        load("a: ${NAME}\nc: ${NAME}: [")
    assert "\ue000" not in str(raised.value)


def test_without_variables_nothing_is_replaced() -> None:
    assert strict_yaml.load("a: ${PORT} $${PORT}") == {"a": "${PORT} $${PORT}"}


def test_escaped_data_is_read_as_it_was() -> None:
    data = {"a ${PORT}": ["${PORT}", {"b": "$${PORT} ${UNSET}"}], "c": 5, "d": date(2024, 1, 1), "e": None}
    assert load(yaml.safe_dump(escape(data))) == data


def bomb(levels: int, width: int = 10) -> str:
    lines = ["a0: &a0 x"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(30),
        bomb(7),
        bomb(200, 1),
        "a0: &a0 {k: 1}\n" + "\n".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40)),
        "a0: &a0 {k: 1}\n" + "\n".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: &a [[*a], *a]",
        "[" * 200 + "]" * 200,
        "[" * 5000 + "]" * 5000,
    ],
    ids=range(10),
)
def test_a_document_that_is_too_large_or_too_deep_is_an_error_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(yaml.YAMLError, match=r"alias|too deep"):
        load(text)
    assert time.process_time() - started < 5


def test_aliases_within_the_limits_are_expanded() -> None:
    assert load("a: &a [1, 2]\nb: [*a, *a]\nc: &c {x: 1}\nd: {<<: *c, y: *a}") == {
        "a": [1, 2], "b": [[1, 2], [1, 2]], "c": {"x": 1}, "d": {"x": 1, "y": [1, 2]},
    }  # fmt: skip
    assert len(load("[" + "1," * 150_000 + "]")) == 150_000


@pytest.mark.parametrize("text", ['a: "\\ud800"', '"\\udc00x": 1', "a: [b, ${HALF}]"])
def test_half_of_a_surrogate_pair_is_an_error_with_its_line(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"half of a surrogate pair, such as \\ud800, is no character\n.*line 1,"):
        strict_yaml.load(text, {"HALF": "\udcff"})
