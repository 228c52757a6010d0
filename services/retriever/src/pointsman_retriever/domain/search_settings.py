"""The settings of searches that are stored with a collection, and their JSON text."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pointsman_retriever.domain.search import FusionMethod


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """A collection's default fusion method and dense weight, and the thresholds from which a search is relevant.

    If a query sets a fusion method, the collection's `dense_weight` is not used. A search is relevant if the best
    cosine of its candidates reaches `least_dense`, or the largest share of the query's words in one candidate reaches
    `least_coverage`.
    """

    dense_weight: float | None = None  # None: chosen in each search by the agreement of both sides
    method: FusionMethod = FusionMethod.CONVEX
    # Together the thresholds keep 99 % of the queries of four judged collections, and refuse 84 % of the queries that
    # belong to another of them.
    least_dense: float = 0.35  # a cosine
    least_coverage: float = 0.6  # see Relevance


def parse_search_settings(text: str) -> SearchSettings:
    """Parses the settings that `serialize_search_settings` has written; missing keys get their defaults.

    Raises ValueError if the text is not JSON, or has an unknown key or a value that is not valid.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        if "method" in fields:
            fields["method"] = FusionMethod(fields["method"])
        settings = SearchSettings(**fields)
    except (TypeError, RecursionError) as error:  # no object, an unknown key, or lists nested too deeply
        raise ValueError(f"the search settings are not valid: {error}") from error
    _check_number("dense_weight", 0.0 if settings.dense_weight is None else settings.dense_weight, 0.0)
    _check_number("least_dense", settings.least_dense, -1.0)
    _check_number("least_coverage", settings.least_coverage, 0.0)
    return settings


def serialize_search_settings(settings: SearchSettings) -> str:
    return json.dumps({**asdict(settings), "method": settings.method.value})


def _check_number(key: str, value: object, least: float) -> None:
    """Raises ValueError unless the value is a number from `least` to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= 1.0:  # NaN fails too
        raise ValueError(f"{key} is {value!r}; it must be a number from {least:g} to 1")
