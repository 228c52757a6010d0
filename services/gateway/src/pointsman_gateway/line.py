"""The stages of one generation of the configuration, as a request walks them."""

from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.backends.express import Express
from pointsman_gateway.backends.stage import Opened
from pointsman_gateway.domain import Decision, Labels, Prompt, Request
from pointsman_gateway.metering.meter import Metering
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Validation


class Classifies(Protocol):
    """Request in, Labels out."""

    async def label(self, request: Request) -> Labels: ...


class Prompting(Protocol):
    """Decision in, Prompt out."""

    async def build(self, request: Request, decision: Decision) -> Prompt:
        """Raises PointsmanError."""
        ...


class Opens(Protocol):
    """Gets an answer to begin: from an engine, or out of the cache."""

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> Opened:
        """Raises PointsmanError."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """The stages of one generation of the configuration; a request walks one of them to its end."""

    generation: str
    classification: Classifies
    router: Router
    prompts: Prompting
    answers: Opens
    express: Express
    """The short way to an engine, for the paths that need no more."""
    validation: Validation
    metering: Metering
