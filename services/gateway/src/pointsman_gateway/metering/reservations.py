"""The kinds of tokens and the service tiers that a request may be charged for, from which a budget's reservation
follows.
"""

from collections.abc import Collection, Set

from pointsman_gateway.domain import Request
from pointsman_gateway.domain.usage import STANDARD_TIERS

_MEDIA_KINDS = {"audio": "prompt_audio", "image": "prompt_image"}
_ANSWER_KINDS = {"audio": "completion_audio", "image": "completion_image"}


def possible_prompt_kinds(request: Request) -> Set[str]:
    """Returns the kinds of tokens that the request's prompt may be charged as, such as "prompt", "cached" or
    "cache_write".

    "cache_write" is always included, since some providers write to their cache unasked, and "cache_write_1h" only if
    the request has a `cache_control`.
    """
    kinds = {kind for media, kind in _MEDIA_KINDS.items() if media in request.media}
    kinds |= {"prompt", "cached", "cache_write"}
    return kinds | {"cache_write_1h"} if _has_breakpoints(request) else kinds


def possible_completion_kinds(request: Request) -> Set[str]:
    modalities = request.sampling.extra.get("modalities")
    asked = modalities if isinstance(modalities, Collection) else ()
    return {"completion", "reasoning", *(kind for media, kind in _ANSWER_KINDS.items() if media in asked)}


def requested_tier(request: Request) -> str:
    """Returns the service tier that the request names; empty if none."""
    named = (request.sampling.anthropic or {}).get("service_tier") or request.sampling.extra.get("service_tier")
    return named if isinstance(named, str) else ""


def possible_tiers(request: Request, priced: Set[str]) -> Set[str]:
    """Returns which of the `priced` service tiers the provider may use for the answer; the standard one, "", is
    always included.

    If the request names no tier, `ANY_TIER` or a tier without a price, the provider may choose any priced one.
    """
    named = requested_tier(request)
    if named in STANDARD_TIERS:
        return {""}
    return {"", named} if named and named in priced else priced


def _has_breakpoints(request: Request) -> bool:
    named = {name for _, name in request.uncommon} | (request.sampling.anthropic or {}).keys()
    return "cache_control" in named
