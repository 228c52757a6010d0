"""Fields and bodies of requests whose validation stops at its first error.

Pydantic otherwise makes an error for each wrong element and unknown name, which takes about 10 microseconds and a
kilobyte each.
"""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

Element = TypeVar("Element")

Elements = Annotated[list[Element], Field(fail_fast=True)]
Entries = Annotated[dict[str, Element], Field(fail_fast=True)]


class KnownNames(BaseModel):
    """A body that refuses names it does not know: a misspelt one would otherwise be ignored."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _with_one_unknown_name(cls, data: Any) -> Any:
        """Drops all unknown names but the first, for which pydantic then makes its error."""
        if not isinstance(data, dict):
            return data
        known = {name: data[name] for name in cls.model_fields if name in data}
        unknown = next((name for name in data if name not in cls.model_fields), None)
        return known if unknown is None else {unknown: data[unknown], **known}
