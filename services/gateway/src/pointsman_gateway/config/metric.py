"""The schema of a task's metric, which scores answers: a model (`judge`), a built-in metric, or a user's function."""

import inspect
from collections.abc import Mapping
from typing import Any

from pointsman_scoring import BUILT_IN, METRICS, built_in_metric, is_user_metric
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, model_validator
from pydantic_core import CoreSchema

from pointsman_gateway.config.field_types import Strict, options_type, valid_options

JUDGE = "judge"


class JudgeConfig(Strict):
    """A model that grades an answer, given the request and the expected answer."""

    model: str = Field(description='as a request names it: "path:NAME" or a model\'s name')
    prompt: str = Field(default="", description="a file in prompts/ with the criteria; empty: the evaluation's own")


class MetricConfig(BaseModel):
    """How an answer is scored from 0 to 1 against the expected one: by one of these metrics, or by one of your own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    judge: JudgeConfig | None = Field(default=None, description="a model grades the answer")
    entry_point: str | None = Field(
        default=None,
        pattern=r"^[\w./-]+:[A-Za-z_]\w*$",
        description="module:function or FILE.py:function; `pointsman eval` imports it, the gateway does not",
    )

    @model_validator(mode="before")
    @classmethod
    def _check(cls, written: Any) -> Any:
        known = ", ".join((*METRICS, JUDGE))
        if not isinstance(written, Mapping) or len(written) != 1 or None in written.values():
            raise ValueError(f"a task has one metric, with a value; known: {known}")
        ((name, option),) = written.items()
        if name in BUILT_IN:
            return {name: valid_options(name, built_in_metric(name), option)}
        if name not in cls.model_fields and not is_user_metric(name):
            raise ValueError(f"unknown metric '{name}'; known: {known}, or module:attribute")
        return written

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Adds the built-in metrics to the properties, with the first paragraphs of their docstrings."""
        found = handler(schema)
        properties = handler.resolve_ref_schema(found)["properties"]
        for name in BUILT_IN:
            implementation = built_in_metric(name)
            description = " ".join((inspect.getdoc(implementation) or "").partition("\n\n")[0].split())
            option = handler(TypeAdapter(options_type(implementation)).core_schema)
            properties[name] = {**option, "description": description}
        return found

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def is_self_contained(self) -> bool:
        """Returns whether the metric is computed by Pointsman alone, without a model or a function of the user."""
        return self.name in BUILT_IN
