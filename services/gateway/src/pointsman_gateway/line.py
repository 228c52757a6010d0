"""The stages of one generation of the configuration, as a request walks them."""

from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.backends.express import Express
from pointsman_gateway.backends.stage import Opened
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_gateway.metering.stage import Metering
from pointsman_gateway.prompts.stage import Prompts
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Validation


class Opens(Protocol):
    """Gets an answer to begin: from an engine, or out of the cache."""

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> Opened:
        """Raises PointsmanError."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """The stages of one generation of the configuration; a request walks one of them to its end."""

    generation: str
    classification: Classification
    router: Router
    prompts: Prompts
    answers: Opens
    express: Express
    """The short way to an engine, for the paths that need no more."""
    validation: Validation
    metering: Metering
