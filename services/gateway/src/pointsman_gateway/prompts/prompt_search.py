"""A search that answers promptly or not at all: a retriever that is down or hangs is left alone for a while."""

import asyncio
import logging

from pointsman_servicekit.errors import DeadlineExceeded, Unavailable

from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.schema import BreakerConfig
from pointsman_gateway.domain import Vector
from pointsman_gateway.prompts.strategies import Found, Search

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that a search may take."""

TERMS = BreakerConfig(failures=3, rest=2.0, longest_rest=15.0)

AWAY = "retriever_unavailable"
LATE = "deadline_exceeded"


class PromptSearch:
    """Implements `Search` around another, with a breaker: only the first few requests of an outage wait for it."""

    def __init__(
        self, inner: Search, breaker: Breaker, terms: BreakerConfig = TERMS, patience: float = PATIENCE
    ) -> None:
        self._inner = inner
        self._breaker = breaker
        self._terms = terms
        self._patience = patience

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        """Raises Unavailable, at once while the retriever is left alone."""
        if not self._breaker.may_enter():
            wait = max(1.0, self._breaker.rest_left)
            raise Unavailable("the retriever has failed and is left alone", code=AWAY, retry_after=wait)
        limit = min(deadline, asyncio.get_running_loop().time() + self._patience)
        entry = self._breaker.enter()
        try:
            found = await self._inner.search(collection, query, vector, top_k, limit)
        except Unavailable as error:
            self._failed(entry, error, own_time=limit < deadline)
            if error.code == LATE and limit == deadline:
                raise DeadlineExceeded("the request's time ran out", code="deadline_exceeded") from error
            raise
        except BaseException:
            self._breaker.undecided(entry)
            raise
        if self._breaker.succeeded(entry, self._terms):
            log.info("the retriever answers again")
        return found

    def _failed(self, entry: int, error: Unavailable, *, own_time: bool) -> None:
        if error.code == AWAY or (error.code == LATE and own_time):
            if self._breaker.failed(entry, self._terms):
                log.warning("the retriever is left alone for %.0f s: %s", self._breaker.rest_left, error)
        else:
            self._breaker.undecided(entry)  # it has answered; what is wrong is in the collection or in the request
