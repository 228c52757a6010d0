"""The response of `GET /v1/models` in OpenAI's format."""

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import QueryParams

from pointsman_gateway.http.dialect import ModelForm


def model_body(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "pointsman"}


def models_page(names: Sequence[str], created: int, query: QueryParams) -> dict[str, Any]:
    """Returns the list of all models; it has no pages, so `query` is not used. `created` is in Unix seconds."""
    return {"object": "list", "data": [model_body(name, created) for name in names]}


OPENAI_MODELS = ModelForm(has_all=True, page=models_page, model=model_body)
