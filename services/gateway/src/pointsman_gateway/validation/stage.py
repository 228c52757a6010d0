"""The stage: a judge reads each answer along, and says at its end whether the task's validators accept it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import msgspec

from pointsman_gateway.domain import Chunk, Decision, Request
from pointsman_gateway.validation.transcript import Choice, Transcript


class Validator(Protocol):
    """Looks at one choice of an answer."""

    @property
    def name(self) -> str:
        """Of its sort, as the configuration names it."""
        ...

    def objection(self, choice: Choice) -> str | None:
        """Why the choice cannot be accepted, or None."""
        ...


class Ruling(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one validator says of an answer."""

    validator: str
    ruling: Ruling
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.validator}: {self.reason or self.ruling}"


def refusal(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first; None where the answer is accepted."""
    return next((verdict for verdict in verdicts if verdict.ruling is Ruling.REFUSED), None)


class Validation:
    """Appoints judges."""

    def __init__(self, validators: Mapping[str, Sequence[Validator]]) -> None:
        """`validators` by task; one that is not there has none."""
        self._validators = validators

    def judges(self, decision: Decision) -> bool:
        """Whether there is anything to be judged of the decision's answer."""
        return bool(self._validators.get(decision.task))

    def judge(self, request: Request, decision: Decision) -> "Judge":
        return Judge(self._validators.get(decision.task, ()), request)


class Judge:
    """Judges the answers to one request."""

    def __init__(self, validators: Sequence[Validator], request: Request) -> None:
        self._validators = validators
        self.judges = bool(validators)
        self._strips = any(v.name == "mean_logprob" for v in validators) and not request.sampling.extra.get("logprobs")

    def asked(self, request: Request) -> Request:
        """The request as the engine gets it: with log-probabilities, where they are judged."""
        if not self._strips:
            return request
        return replace(request, sampling=replace(request.sampling, extra={**request.sampling.extra, "logprobs": True}))

    def told(self, chunk: Chunk) -> Chunk | None:
        """The chunk as the client gets it: without what it has not asked for; None where nothing is left."""
        if not self._strips or "logprobs" not in chunk.extra:
            return chunk
        extra = {key: value for key, value in chunk.extra.items() if key != "logprobs"}
        left = msgspec.structs.replace(chunk, extra=extra, raw=b"")
        return None if left == Chunk(chunk.index) else left

    def verdicts(self, transcript: Transcript) -> tuple[Verdict, ...]:
        """One of each validator. Every choice must be accepted; an answer that is too long is not judged."""
        if transcript.too_long:
            return tuple(Verdict(v.name, Ruling.UNJUDGED, "the answer is too long") for v in self._validators)
        choices = transcript.choices()
        return tuple(_verdict(validator, choices) for validator in self._validators)


def _verdict(validator: Validator, choices: Sequence[Choice]) -> Verdict:
    for number, choice in enumerate(choices):
        objection = validator.objection(choice)
        if objection:
            reason = f"choice {number}: {objection}" if len(choices) > 1 else objection
            return Verdict(validator.name, Ruling.REFUSED, reason)
    return Verdict(validator.name, Ruling.ACCEPTED)
