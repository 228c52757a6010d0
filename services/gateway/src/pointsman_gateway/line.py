"""The stages of one generation of the configuration, as a request walks them."""

from dataclasses import dataclass

from pointsman_gateway.metering.meter import Metering
from pointsman_gateway.pipeline.ports import Backend, Classifier, PromptBuilder
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Validation


@dataclass(frozen=True, slots=True)
class Line:
    """The stages of one generation of the configuration; a request walks one of them to its end."""

    generation: str
    classification: Classifier
    router: Router
    prompts: PromptBuilder
    answers: Backend
    validation: Validation
    metering: Metering
