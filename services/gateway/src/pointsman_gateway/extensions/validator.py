"""The interface of validators: conditions that a task's answers must meet."""

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
    """One complete choice of an answer: its text, why it ended, and whether it calls tools."""

    text: str
    finish_reason: str = ""
    calls_tools: bool = False
    logprobs: tuple[float, ...] = ()
    """The natural logarithms of the tokens' probabilities, as far as the engine reported them."""

    @property
    def only_calls_tools(self) -> bool:
        """Returns whether the choice calls tools and so needs no text."""
        return self.calls_tools and not self.text.strip()


class Validator(Protocol):
    """Accepts or refuses each choice of an answer to a task."""

    Options: ClassVar[Any]
    """The type of the options in the configuration: any type that pydantic can validate."""
    checks_format: ClassVar[bool] = True
    """Whether it checks the form that the task's answers have; a form that the client requires replaces it."""
    needs_logprobs: ClassVar[bool] = False
    """Whether the engine must report log-probabilities; a client that did not ask for them does not receive them."""

    def __init__(self, options: Any) -> None:
        """Takes the options of the configuration; raises ValueError if they cannot be used."""

    def objection(self, choice: Choice) -> str | None:
        """Returns why the choice is refused, or None if it is accepted.

        The reason is stored in the request log, so it must not quote the answer.
        """
        ...
