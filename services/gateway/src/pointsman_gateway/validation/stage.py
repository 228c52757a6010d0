"""The stage that checks answers: collects the text of an answer while it streams, and then runs the validators."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from pointsman_gateway.domain import Chunk, Decision, Request
from pointsman_gateway.extensions import Choice, Validator
from pointsman_gateway.validation.answer_budget import AnswerBudget, BudgetedValidator, NotJudged
from pointsman_gateway.validation.client_schemas import ClientSchemas

MAX_CHARACTERS = 1_000_000
"""Maximum number of characters of an answer that is checked; the verdict on a longer one is "unjudged"."""
MAX_CHUNKS = 32_768
CLIENT_SCHEMA = "json_schema"
"""Name, in verdicts and metrics, of the validator for the schema in a client's `response_format`."""

Named = tuple[str, Validator]
"""A pair of a validator's name in the configuration and the validator."""


class Ruling(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one validator for an answer, with the reason: "accepted", "refused" or "unjudged" (the validator
    could not check the answer).

    The reason is empty if the answer is accepted.
    """

    validator: str
    ruling: Ruling
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.validator}: {self.reason or self.ruling}"


def refusal(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Returns the verdict of the first validator that rejects the answer; None if none does."""
    return next((verdict for verdict in verdicts if verdict.ruling is Ruling.REFUSED), None)


class Validation:
    """The validators of all tasks. `checks` makes the object that runs the validators of one request."""

    def __init__(self, validators: Mapping[str, Sequence[Named]]) -> None:
        """Takes the validators of each task; a task that is missing has none."""
        self._validators = validators
        self._client_schemas = ClientSchemas()

    def has_checks(self, decision: Decision) -> bool:
        """Returns whether validators are configured for the decision's task; a schema in the client's request does not
        count.
        """
        return bool(self._validators.get(decision.task))

    def checks(self, request: Request, decision: Decision) -> "AnswerChecks":
        """Returns the object that checks the answers to this request by the validators of the decision's task.

        If the client requires a form of the answer (`requires_form`), validators with `checks_format` are left out, and
        the schema in the client's `response_format`, if there is one, is checked instead.
        """
        validators = self._validators.get(decision.task, ())
        sampling = request.sampling
        if sampling.requires_form:
            kept = [named for named in validators if not named[1].checks_format]
            schemas = self._client_schemas.validators(sampling.response_format or {})
            validators = [*kept, *((CLIENT_SCHEMA, schema) for schema in schemas)]
        return AnswerChecks(validators, request)


class AnswerChecks:
    """Runs the validators on the answers to one request, and requests the log-probabilities that they need."""

    def __init__(self, validators: Sequence[Named], request: Request) -> None:
        self._validators = validators
        needs_logprobs = any(validator.needs_logprobs for _, validator in validators)
        self._strips = needs_logprobs and not request.sampling.extra.get("logprobs")
        """Whether log-probabilities are requested for validation only, and removed from the client's answer."""

    def engine_request(self, request: Request) -> Request:
        """Returns the request to send to the engine: the client's, which also asks for log-probabilities if a
        validator needs them.
        """
        if not self._strips:
            return request
        return replace(request, sampling=replace(request.sampling, extra={**request.sampling.extra, "logprobs": True}))

    def client_chunk(self, chunk: Chunk) -> Chunk | None:
        """Returns the chunk to send to the client: without log-probabilities that only a validator has asked for.

        Returns None if the chunk has nothing else.
        """
        if not self._strips or "logprobs" not in chunk.extra:
            return chunk
        extra = {key: value for key, value in chunk.extra.items() if key != "logprobs"}
        stripped = msgspec.structs.replace(chunk, extra=extra, raw=b"")
        return None if stripped == Chunk(chunk.index) else stripped

    def verdicts(self, transcript: "Transcript") -> tuple[Verdict, ...]:
        """Runs each validator on the complete answer in `transcript`, and returns their verdicts; all share one work
        limit.

        A verdict is "refused" if the validator rejects a choice, else "unjudged" if it could not check a choice or the
        answer is too long, else "accepted".
        """
        if transcript.too_long:
            return tuple(Verdict(name, Ruling.UNJUDGED, "the answer is too long") for name, _ in self._validators)
        choices, budget = transcript.choices(), AnswerBudget()
        return tuple(_verdict(name, validator, choices, budget) for name, validator in self._validators)


def _verdict(name: str, validator: Validator, choices: Sequence[Choice], budget: AnswerBudget) -> Verdict:
    ruling, not_judged = Ruling.ACCEPTED, ""
    for number, choice in enumerate(choices):
        try:
            if isinstance(validator, BudgetedValidator):
                objection = validator.objection_within(budget, choice)
            else:
                objection = validator.objection(choice)
        except NotJudged as error:
            ruling, not_judged = Ruling.UNJUDGED, str(error)
            continue
        if objection:
            reason = f"choice {number}: {objection}" if len(choices) > 1 else objection
            return Verdict(name, Ruling.REFUSED, reason)
    return Verdict(name, ruling, not_judged)


@dataclass(slots=True)
class _PartialChoice:
    pieces: list[str] = field(default_factory=list)
    finish_reason: str = ""
    calls_tools: bool = False
    logprobs: list[float] = field(default_factory=list)


class Transcript:
    """Collects the choices of one answer from its chunks: text, finish reason, log-probabilities, whether tools are
    called.

    If the answer exceeds `max_characters` or `MAX_CHUNKS`, it is `too_long`, and the collected choices are dropped.
    """

    def __init__(self, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_characters = max_characters
        self._characters = 0
        self._chunks = 0
        self._choices: dict[int, _PartialChoice] = {}

    @property
    def too_long(self) -> bool:
        return self._characters > self._max_characters or self._chunks > MAX_CHUNKS

    def add(self, chunk: Chunk) -> None:
        self._characters += len(chunk.content)
        self._chunks += 1
        if self.too_long:
            self._choices.clear()
            return
        choice = self._choices.setdefault(chunk.index, _PartialChoice())
        choice.pieces.append(chunk.content)
        choice.finish_reason = chunk.finish_reason or choice.finish_reason
        delta = chunk.extra.get("delta") or {}
        choice.calls_tools |= bool(delta.get("tool_calls") or delta.get("function_call"))
        choice.logprobs.extend(_logprobs(chunk))

    def choices(self) -> list[Choice]:
        """Returns the choices of the answer, in the order of their index.

        Returns one empty choice if no chunk was added, or if the answer is `too_long`.
        """
        if not self._choices:
            return [Choice("")]
        return [
            Choice("".join(c.pieces), c.finish_reason, c.calls_tools, tuple(c.logprobs))
            for _, c in sorted(self._choices.items())
        ]


def _logprobs(chunk: Chunk) -> Iterator[float]:
    reported = chunk.extra.get("logprobs")
    for token in (reported.get("content") or ()) if isinstance(reported, dict) else ():
        logprob = token.get("logprob") if isinstance(token, dict) else None
        if isinstance(logprob, int | float):
            yield logprob
