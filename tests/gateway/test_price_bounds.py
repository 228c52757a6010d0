"""A price that is no finite number, or so large that sums of costs would overflow, is refused with its key."""

from typing import Any

import pytest
from pointsman_gateway.config.models_file import ModelsFile
from pydantic import ValidationError

PRICES = {"prompt": 1, "cached": 1, "completion": 1}
PLACES = [
    ("models", "m", "usd_per_million_tokens", "prompt"),
    ("models", "m", "usd_per_million_tokens", "cache_write"),
    ("models", "m", "usd_per_image"),
    ("models", "m", "usd_per_request"),
    ("models", "m", "usd_per_tool_request"),
    ("engines", "e", "usd_per_hour"),
    ("embeddings", "x", "usd_per_million_tokens"),
    ("rerankers", "r", "usd_per_million_tokens"),
    ("rerankers", "r", "usd_per_search"),
    ("retrieval", "usd_per_search"),
    ("retrieval", "usd_per_embedding"),
    ("cache", "usd_per_hit"),
    ("training", "usd_per_hour"),
]


def models_file() -> dict[str, Any]:
    return {
        "prices_as_of": "2026-11-28",
        "models": {"m": {"context_window": 9, "usd_per_million_tokens": dict(PRICES)}},
        "engines": {"e": {"model": "m", "url": "http://localhost:1"}},
        "embeddings": {"x": {"local": True, "usd_per_million_tokens": 1}},
        "rerankers": {"r": {"retriever": True, "usd_per_million_tokens": 1, "usd_per_search": 1}},
        "retrieval": {"usd_per_search": 1, "usd_per_embedding": 1},
        "cache": {"usd_per_hit": 1},
        "training": {"usd_per_hour": 1, "expected_requests": 1, "expected_days": 1},
    }


@pytest.mark.parametrize("price", [float("inf"), float("nan"), 1e303, 1.1e9, -1], ids=str)
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_price_has_bounds(place: tuple[str, ...], price: float) -> None:
    content = models_file()
    assert ModelsFile.model_validate(content)
    section = content
    for name in place[:-1]:
        section = section[name]
    section[place[-1]] = price
    with pytest.raises(ValidationError) as error:
        ModelsFile.model_validate(content)
    assert error.value.errors()[0]["loc"][: len(place)] == place
