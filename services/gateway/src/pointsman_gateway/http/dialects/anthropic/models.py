"""The response of `GET /v1/models` in Anthropic's format, for clients that send the header `anthropic-version`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import QueryParams

from pointsman_gateway.http.dialect import ModelForm
from pointsman_gateway.http.fields import bad_parameter

DEFAULT_LIMIT, MAX_LIMIT = 20, 1000


def model_body(name: str, created: int) -> dict[str, Any]:
    """Returns the JSON object of one model in Anthropic's format; `created` is in Unix seconds."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
    }


def models_page(names: Sequence[str], created: int, query: QueryParams) -> dict[str, Any]:
    """Returns the page of `names` that the query's `limit`, `after_id`, `before_id` and `lifecycle` select.

    `created` is in Unix seconds. Raises InvalidArgument if `limit` is not 1 to `MAX_LIMIT`, an id is not in `names`, or
    both ids are given.
    """
    lifecycles = [*query.getlist("lifecycle"), *query.getlist("lifecycle[]")]
    if lifecycles and "active" not in lifecycles:
        names = ()
    limit, after, before = _limit(query.get("limit", "")), query.get("after_id"), query.get("before_id")
    if after and before:
        raise bad_parameter("'after_id' and 'before_id' exclude each other", "before_id")
    if before:
        end = _position(names, before, "before_id")
        start = max(0, end - limit)
        page, has_more = names[start:end], start > 0
    else:
        start = _position(names, after, "after_id") + 1 if after else 0
        page, has_more = names[start : start + limit], start + limit < len(names)
    return {
        "data": [model_body(name, created) for name in page],
        "has_more": has_more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MAX_LIMIT):
        raise bad_parameter(f"'limit' must be 1 to {MAX_LIMIT}", "limit")
    return int(text)


def _position(names: Sequence[str], name: str, parameter: str) -> int:
    if name not in names:
        raise bad_parameter(f"'{parameter}' must be the id of a model in the list", parameter)
    return names.index(name)


ANTHROPIC_MODELS = ModelForm(header=b"anthropic-version", has_all=False, page=models_page, model=model_body)
