"""Which answers each validator accepts and rejects, and which configurations are valid."""

import json
from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any

import pytest
from pointsman_gateway import bootstrap
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Chunk, Decision, Message, Path, Request, Sampling
from pointsman_gateway.extensions import VALIDATORS, Choice, Validator
from pointsman_gateway.validation.json_schema import JsonSchema
from pointsman_gateway.validation.stage import Named, Ruling, Transcript, Validation, Verdict, refusal
from pointsman_gateway.validation.validators import MAX_SEARCHED_CHARACTERS, Complete, MeanLogprob, RegexValidator

from tests.gateway.doubles.config_folder import ConfigFolder

SCHEMA = {
    "type": "object",
    "properties": {"urgency": {"enum": ["low", "high"]}, "code": {"type": "string", "pattern": "^[A-Z]{2}$"}},
    "required": ["urgency"],
    "additionalProperties": False,
}
TOOL_CALL = Choice("", "tool_calls", calls_tools=True)
DECISION = Decision("d", "t", 1.0, Path("p", "tiny"), "r", "s", (), ())


def request(**extra: Any) -> Request:
    return Request("auto", (Message("user", "x"),), Sampling(extra=extra))


def named(*validators: Validator) -> list[Named]:
    """Returns the validators with their names in the configuration."""
    names = {VALIDATORS.find(name): name for name in VALIDATORS.builtins}
    return [(names[type(validator)], validator) for validator in validators]


def judged(validators: Sequence[Validator], *chunks: Chunk, longest: int = 1000) -> tuple[Verdict, ...]:
    transcript = Transcript(longest)
    for chunk in chunks:
        transcript.add(chunk)
    return Validation({"t": named(*validators)}).checks(request(), DECISION).verdicts(transcript)


# -- complete


@pytest.mark.parametrize(
    ("choice", "objection"),
    [
        (Choice("yes", "stop"), None),
        (Choice("yes"), None),
        (TOOL_CALL, None),
        (Choice("", "stop"), "empty"),
        (Choice(" \n", "stop"), "empty"),
        (Choice("half a sen", "length"), "cut off at its longest"),
        (Choice("", "length", calls_tools=True), "cut off at its longest"),
        (Choice("half", "content_filter"), "cut off by a filter"),
        (Choice("half", "abort"), "broken off"),
    ],
)
def test_a_complete_answer_is_neither_empty_nor_cut(choice: Choice, objection: str | None) -> None:
    assert Complete(True).objection(choice) == objection


# -- json_schema


@pytest.mark.parametrize("text", ['{"urgency": "low"}', ' {"urgency": "high", "code": "AB"}\n'])
def test_json_that_satisfies_its_schema_is_accepted(text: str) -> None:
    assert JsonSchema(SCHEMA).objection(Choice(text)) is None


@pytest.mark.parametrize(
    ("text", "objection"),
    [
        ("{}", '"urgency" is a required property'),
        ('{"urgency": "none"}', 'the value is not one of "low" or "high" at \'urgency\''),
        ('{"urgency": "low", "code": "x"}', "the value does not match \"^[A-Z]{2}$\" at 'code'"),
        ('{"urgency": "low", "x": 1}', "additionalProperties is not satisfied"),
        ('["low"]', 'the value is not of type "object"'),
        ("low", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('```json\n{"urgency": "low"}\n```', "not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"urgency": "low"} Anything else?', "not JSON: Extra data: line 1 column 20 (char 19)"),
        ('{"urgency": NaN}', "not JSON: NaN is no JSON"),
    ],
)
def test_other_json_and_other_texts_are_refused_with_the_location(text: str, objection: str) -> None:
    assert JsonSchema(SCHEMA).objection(Choice(text)) == objection


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, '{"urgency": "\\ud800"}', "[" * 900 + "]" * 900])
def test_json_that_is_too_deep_or_not_json_is_refused(text: str) -> None:
    assert JsonSchema(SCHEMA).objection(Choice(text))


SECRET = "ann@example.org"


@pytest.mark.parametrize(
    ("schema", "answer", "objection"),
    [
        ({"properties": {"to": {"maxLength": 3}}}, {"to": SECRET}, "the value is longer than 3 characters at 'to'"),
        ({"properties": {"to": {"const": "Bob"}}}, {"to": SECRET}, "\"Bob\" was expected at 'to'"),
        ({"additionalProperties": {"type": "null"}}, {SECRET: 1}, "additionalProperties is not satisfied at '*'"),
        ({"unevaluatedProperties": False}, {SECRET: 1}, "unevaluatedProperties is not satisfied"),
        ({"propertyNames": {"maxLength": 3}}, {SECRET: 1}, "propertyNames is not satisfied"),
        ({"patternProperties": {"@": {"type": "null"}}}, {SECRET: 1}, "the value is not of type \"null\" at '*'"),
        ({"prefixItems": [{}], "unevaluatedItems": False}, [1, SECRET], "unevaluatedItems is not satisfied"),
        ({"properties": {"to": {"oneOf": [{}, {}]}}}, {"to": [SECRET]}, "more than one of the schemas"),
        ({"contains": {"type": "null"}}, [SECRET], "None of the value are valid under the given schema"),
        ({"not": {"type": "string"}}, SECRET, "is not allowed for the value"),
        ({"items": {"properties": {"n": False}}}, [{"n": SECRET}], "does not allow the value at '0.n'"),
    ],
)
def test_a_reason_never_quotes_the_answer(schema: dict[str, Any], answer: Any, objection: str) -> None:
    reason = JsonSchema(schema).objection(Choice(json.dumps(answer)))
    assert reason is not None
    assert objection in reason
    assert SECRET not in reason


def test_a_long_reason_is_cut() -> None:
    objection = JsonSchema({"enum": ["x" * 10_000]}).objection(Choice("1"))
    assert objection is not None
    assert len(objection) == 300


def test_a_schema_may_refer_to_its_own_parts() -> None:
    tree = {"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"}
    assert JsonSchema(tree).objection(Choice("[[], [[]]]")) is None
    assert JsonSchema(tree).objection(Choice("[[], [1]]")) == "the value is not of type \"array\" at '1.0'"


def test_a_pattern_of_a_schema_is_limited_in_backtracking() -> None:
    evil = JsonSchema({"patternProperties": {r"^(a|aa)+\1$": {"type": "string"}}, "additionalProperties": False})
    objection = evil.objection(Choice(json.dumps({"a" * 60 + "b": 1})))
    assert objection is not None
    assert "backtracking" in objection


# -- regex


def test_a_pattern_is_searched_for_anywhere() -> None:
    assert RegexValidator(r"\bDear\b").objection(Choice("Oh Dear me")) is None
    assert RegexValidator(r"^Dear").objection(Choice("Oh Dear me")) == "'^Dear' is not found"
    assert RegexValidator(r"(?s)\A(?!.*sorry)").objection(Choice("so\nsorry")) is not None


def test_text_beyond_the_limit_is_not_searched() -> None:
    assert RegexValidator("end").objection(Choice("x" * (MAX_SEARCHED_CHARACTERS - 3) + "end")) is None
    assert RegexValidator("end").objection(Choice("x" * (MAX_SEARCHED_CHARACTERS - 2) + "end")) == "'end' is not found"


def test_a_search_is_limited_in_time() -> None:
    evil = RegexValidator("^(a|aa)+$")
    assert evil.objection(Choice("a" * 60 + "b")) == "the search for '^(a|aa)+$' was given up after 50 ms"


def test_all_searches_of_an_answer_together_have_50_ms() -> None:
    slow = RegexValidator("(?:^(a|aa)+$)?b$")
    choices = [Chunk(index, "a" * 24 + "b", "stop") for index in range(128)]
    began = thread_time()

    first, second, complete = judged([slow, slow, Complete(True)], *choices, longest=10_000)

    assert thread_time() - began < 0.2
    assert first.ruling is second.ruling is Ruling.REFUSED
    assert str(first).endswith("was given up after 50 ms")
    assert str(second) == f"regex: choice 0: {str(first).split(': ', 2)[2]}"
    assert complete.ruling is Ruling.ACCEPTED


# -- mean_logprob


def test_the_mean_must_be_reached() -> None:
    assert MeanLogprob(-0.5).objection(Choice("x", logprobs=(-0.2, -0.8))) is None
    assert MeanLogprob(-0.4).objection(Choice("x", logprobs=(-0.2, -0.8))) == "-0.500, under -0.400"


def test_an_answer_without_log_probabilities_is_refused() -> None:
    assert MeanLogprob(-9.0).objection(Choice("x")) == "the engine reported no log-probabilities"


# -- all of them


@pytest.mark.parametrize("validator", [JsonSchema(SCHEMA), RegexValidator("x"), MeanLogprob(-0.1)])
def test_a_tool_call_without_text_is_accepted(validator: Validator) -> None:
    assert validator.objection(TOOL_CALL) is None


def test_an_answer_is_judged_by_every_validator_and_refused_by_the_first_that_objects() -> None:
    verdicts = judged(
        [Complete(True), RegexValidator("z"), RegexValidator("y")], Chunk(content="x", finish_reason="stop")
    )
    assert [verdict.ruling for verdict in verdicts] == [Ruling.ACCEPTED, Ruling.REFUSED, Ruling.REFUSED]
    assert str(refusal(verdicts)) == "regex: 'z' is not found"


def test_every_choice_must_be_accepted() -> None:
    good, bad = Chunk(0, "x", "stop"), Chunk(1, "y", "stop")
    assert refusal(judged([RegexValidator("x")], good, Chunk(1, "x", "stop"))) is None
    assert str(refusal(judged([RegexValidator("x")], good, bad))) == "regex: choice 1: 'x' is not found"


def test_the_chunks_of_each_choice_are_joined() -> None:
    transcript = Transcript()
    for piece in (
        Chunk(0, "Hel", extra={"logprobs": {"content": [{"token": "Hel", "logprob": -0.1}]}}),
        Chunk(1, "Good"),
        Chunk(0, "lo", "stop", extra={"logprobs": {"content": [{"token": "lo", "logprob": -0.3}]}}),
        Chunk(1, "", "tool_calls", extra={"delta": {"tool_calls": [{"index": 0}]}}),
    ):
        transcript.add(piece)
    assert transcript.choices() == [
        Choice("Hello", "stop", False, (-0.1, -0.3)),
        Choice("Good", "tool_calls", True, ()),
    ]


@pytest.mark.parametrize("logprobs", [None, [], {}, {"content": None}, {"content": [None, {"logprob": None}, {}]}])
def test_malformed_log_probabilities_are_ignored(logprobs: object) -> None:
    transcript = Transcript()
    transcript.add(Chunk(0, "x", extra={"logprobs": logprobs}))
    assert transcript.choices() == [Choice("x")]


def test_an_answer_without_chunks_is_empty() -> None:
    assert str(refusal(judged([Complete(True)]))) == "complete: empty"


def test_an_answer_that_is_too_long_is_dropped_and_not_judged() -> None:
    verdicts = judged([RegexValidator("x"), Complete(True)], Chunk(content="y" * 600), Chunk(content="y" * 600))
    assert [(verdict.validator, verdict.ruling) for verdict in verdicts] == [
        ("regex", Ruling.UNJUDGED),
        ("complete", Ruling.UNJUDGED),
    ]
    assert refusal(verdicts) is None


@pytest.mark.parametrize(
    ("validators", "asked", "engine_gets", "client_gets"),
    [
        ([MeanLogprob(-1.0)], {}, {"logprobs": True}, {}),
        ([MeanLogprob(-1.0)], {"logprobs": False}, {"logprobs": True}, {}),
        ([MeanLogprob(-1.0)], {"logprobs": True}, {"logprobs": True}, {"logprobs": "told"}),
        ([Complete(True)], {}, {}, {"logprobs": "told"}),
        ([Complete(True)], {"logprobs": True}, {"logprobs": True}, {"logprobs": "told"}),
    ],
)
def test_log_probabilities_for_validation_do_not_reach_the_client(
    validators: list[Validator], asked: dict[str, Any], engine_gets: dict[str, Any], client_gets: dict[str, Any]
) -> None:
    checks = Validation({"t": named(*validators)}).checks(request(**asked), DECISION)
    assert checks.engine_request(request(**asked)).sampling.extra == engine_gets
    assert checks.client_chunk(Chunk(content="x", extra={"logprobs": "told"})) == Chunk(content="x", extra=client_gets)


def test_a_chunk_that_becomes_empty_is_not_sent() -> None:
    checks = Validation({"t": named(MeanLogprob(-1.0))}).checks(request(), DECISION)
    assert checks.client_chunk(Chunk(1, extra={"logprobs": {"content": []}})) is None


# -- the configuration


def _validators(*validators: Any) -> Callable[[ConfigFolder], None]:
    return lambda config: config.tasks["triage"].update(validators=list(validators))


def _escalate(*paths: str, freely: Sequence[str] = (), **task: Any) -> Callable[[ConfigFolder], None]:
    policy = {"escalate": {"paths": list(paths), "stream_unvalidated": list(freely)}}
    return lambda config: config.tasks["triage"].update({"policy": policy, "validators": [{"complete": True}]} | task)


def _best_value(**terms: Any) -> Callable[[ConfigFolder], None]:
    return lambda config: config.tasks["triage"].update(
        policy={"best_value": {"paths": ["letter", "handbook"], "quality_floor": 0.8} | terms}
    )


def load_and_check(config_folder: ConfigFolder, bend: Callable[[ConfigFolder], None]) -> None:
    bend(config_folder)
    bootstrap.check_config(load_config(config_folder.write(), {}))


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (_validators({"json_schema": {"type": "objec"}}), "validator json_schema: bad schema at 'type': \"objec\" is"),
        (
            _validators({"json_schema": {"properties": {"a": {"pattern": "("}}}}),
            'bad schema at \'properties.a.pattern\': "(" is not a "regex"',
        ),
        (_validators({"json_schema": {"$ref": "#/$defs/x"}}), "bad schema: Pointer '/$defs/x' does not exist"),
        (_validators({"json_schema": {"$ref": "http://127.0.0.1:9/x"}}), "schemas are not fetched"),
        (_validators({"regex": "("}), "validator regex: bad regex '(': missing )"),
        (_validators({"mean_logprob": 0.5}), "less than or equal to 0"),
        (_validators({"complete": False}), "Input should be True"),
        (_validators({"complete": None}), "Input should be True"),
        (_validators({"regex": "x", "complete": True}), "an entry names one validator"),
        (_validators({}), "an entry names one validator"),
        (
            _validators({"spelling": True}),
            "the validator is 'spelling', which is unknown; use one of complete, js",
        ),
        (_escalate("letter", "handbook", validators=[]), "its policy 'escalate' needs validators; write some"),
        (_escalate("letter", "letter"), "its policy names a path twice: letter, letter"),
        (_escalate("letter", "sonnet"), "names path 'sonnet'"),
        (_escalate("letter"), "at least 2 items"),
        (
            _escalate("letter", "handbook", freely=["small_talk"]),
            "stream_unvalidated names 'small_talk'; known: handbook",
        ),
        (
            _escalate("letter", "handbook", freely=["letter"]),
            "a path before the last must not be in stream_unvalidated",
        ),
        (_best_value(paths=["letter", "letter"]), "its policy names a path twice"),
        (_best_value(paths=["letter", "sonnet"]), "names path 'sonnet'"),
        (_best_value(paths=["letter"]), "at least 2 items"),
        (_best_value(quality_floor=1.2), "less than or equal to 1"),
        (_best_value(quality_floor=float("nan")), "quality_floor"),
        (_best_value(exploration_rate=0.6), "less than or equal to 0.5"),
        (_best_value(confidence=1), "less than 1"),
        (_best_value(floor=1), "unknown key 'tasks.triage.policy.best_value.floor'"),
    ],
)
def test_an_invalid_policy_or_validator_is_refused_by_name(
    config_folder: ConfigFolder, bend: Callable[[ConfigFolder], None], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_and_check(config_folder, bend)
    assert message in str(refused.value)
    assert "triage" in str(refused.value)


@pytest.mark.parametrize(
    "bend",
    [
        _validators({"json_schema": SCHEMA}, {"regex": "x"}, {"mean_logprob": -0.5}, {"complete": True}),
        _escalate("letter", "handbook", "small_talk", freely=["letter", "small_talk"]),
        _best_value(p95_seconds=2, hysteresis=0, exploration_rate=0, min_samples=1),
    ],
)
def test_valid_policies_and_validators_are_accepted(
    config_folder: ConfigFolder, bend: Callable[[ConfigFolder], None]
) -> None:
    load_and_check(config_folder, bend)
