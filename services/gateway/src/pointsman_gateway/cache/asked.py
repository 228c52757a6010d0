"""What exactly is asked, as digests: two requests with the same digest may have the same answer."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.cache.likeness import comparable, told_apart_by
from pointsman_gateway.config.schema import CacheConfig
from pointsman_gateway.domain import Path, Prompt, Request, Sampling

LAYOUT = 2
"""Of the digests and of what is kept; with another one nothing that was kept before is found."""

LONGEST_PROMPT = 64 * 1024
"""Characters; what is longer is seldom asked twice, and would take long to digest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on a path that caches."""

    path: str
    model: str
    """What must answer it: the base model or the adapter's version."""
    tenant: str
    """A digest."""
    exact: str
    """Of all that makes the answer."""
    near: str
    """Of all that must be the same for an answer to a question that is only alike; empty where there may be none."""
    question: str
    renews: bool
    """An earlier answer is not wanted, the new one is kept."""


class Asking:
    """Says of each request on one path whether, and as what, it is cached."""

    def __init__(self, path: Path, config: CacheConfig, embedding: str) -> None:
        """`embedding` names the model that makes the vectors."""
        self.config = config
        self._path = path
        self._embedding = embedding

    def asked(self, request: Request, prompt: Prompt, model: str) -> Asked | None:
        """None where nothing may be looked up, and nothing kept."""
        wish = request.cache
        sampling = request.sampling.with_defaults(self._path.sampling)
        if not model or wish == "off" or not self._may(request, prompt, sampling):
            return None
        tenant, how = request.caller.tenant, [request.operation, *_told(sampling)]
        always = [
            LAYOUT,
            tenant,
            self._user(request),
            self._path.name,
            self._path.fingerprint,
            model,
            prompt.collection_versions,
        ]
        messages = [(m.role, m.content, dict(m.extra)) for m in prompt.messages]
        return Asked(
            path=self._path.name,
            model=model,
            tenant=_digest(tenant),
            exact=_digest(["exact", *always, how, messages]),
            near=self._near(request, prompt, sampling, [*always, how]),
            question=request.query,
            renews=wish == "renew",
        )

    def _may(self, request: Request, prompt: Prompt, sampling: Sampling) -> bool:
        return (
            (sampling.temperature == 0 or self.config.sampled)
            and (bool(request.user) or not self.config.per_user)
            # An answer without its passages, since the retriever was away, is not to outlive that.
            and {name for name, _ in prompt.collection_versions} == set(self._path.collections)
            and sum(len(message.content) for message in prompt.messages) <= LONGEST_PROMPT
        )

    def _user(self, request: Request) -> str:
        return request.user if self.config.per_user else ""

    def _near(self, request: Request, prompt: Prompt, sampling: Sampling, always: list[Any]) -> str:
        if self.config.semantic is None or not comparable(request, sampling):
            return ""
        *earlier, last = request.messages
        before = [*((m.role, m.content, dict(m.extra)) for m in earlier), dict(last.extra)]
        # The version of a collection that was deleted and made anew may be one that there was before.
        shown = [(p.document_id, p.start, p.text) for p in prompt.passages]
        return _digest(["near", *always, before, shown, told_apart_by(request.query), self._embedding])


def _told(sampling: Sampling) -> list[Any]:
    temperature = None if sampling.temperature is None else float(sampling.temperature)
    return [sampling.max_tokens, temperature, sampling.top_p, sampling.seed, sampling.stop, dict(sampling.extra)]


def _digest(told: Any) -> str:
    written = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(written.encode(), digest_size=20).hexdigest()
