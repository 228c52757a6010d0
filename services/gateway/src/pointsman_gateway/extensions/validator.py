"""The interface of validators, which check whether an answer meets a condition of its task."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pointsman_servicekit.extensions import Registry

VALIDATORS = Registry(
    "validator",
    "pointsman.validators",
    {
        "complete": "pointsman_gateway.validation.validators:Complete",
        "json_schema": "pointsman_gateway.validation.json_schema:JsonSchema",
        "regex": "pointsman_gateway.validation.validators:RegexValidator",
        "mean_logprob": "pointsman_gateway.validation.validators:MeanLogprob",
    },
    method="objection",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One complete choice of an answer; an answer has several if the client asks for them by `n`."""

    text: str
    finish_reason: str = ""
    """Why the choice ended, as in OpenAI's API, such as "stop" or "length"."""
    calls_tools: bool = False
    logprobs: tuple[float, ...] = ()
    """The natural logarithms of the tokens' probabilities; empty if the engine did not report them."""

    @property
    def only_calls_tools(self) -> bool:
        """Returns whether the choice calls tools and has no text."""
        return self.calls_tools and not self.text.strip()


class Validator(Protocol):
    """Interface of a validator, which accepts or rejects each choice of an answer."""

    Options: ClassVar[Any]
    """The type of the options in the configuration: any type that pydantic can validate."""
    checks_format: ClassVar[bool] = True
    """Whether the validator checks the form of answers. If the client requires a form, the validator is not used."""
    needs_logprobs: ClassVar[bool] = False
    """Whether the engine must report log-probabilities. A client gets them only if its request asks for them."""

    def __init__(self, options: Any) -> None:
        """Takes the options of the configuration. Raises ValueError if they cannot be used."""

    def objection(self, choice: Choice) -> str | None:
        """Returns the reason to reject the choice, or None to accept it.

        The reason is stored in the request log, so it must not quote the answer. A built-in validator may also raise
        `NotJudged` if it can do neither; then its verdict is "unjudged".
        """
        ...
