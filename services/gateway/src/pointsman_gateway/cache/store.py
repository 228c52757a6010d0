"""Cached answers in Redis, and in-memory copies of the questions that are compared by similarity.

A partition is the set of cached questions that may share answers if they are similar: all else on which the answer
depends is equal (`CacheKeys.partition`). Each is a Redis stream.
"""

import base64
import binascii
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_servicekit.bounded_redis import BoundedRedis, read_script

from pointsman_gateway.cache.keys import CacheKeys
from pointsman_gateway.domain import Vector

MAX_QUESTIONS = 256
"""Maximum number of questions in a partition. If there are more, the oldest ones are dropped."""

MAX_PARTITIONS = 64
"""Maximum number of partitions of which this gateway keeps a copy in memory. The copies of full partitions take 25 MB
with vectors of 384 dimensions."""

MAX_TENANT_BYTES = 64 * 1024 * 1024
"""Maximum bytes of stored answers of one tenant. If a tenant exceeds it, its answers that would expire first are
deleted."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answer is cached, with its embedding, to find it again by similarity."""

    stream_id: str
    """The id of this question's entry in the Redis stream of its partition."""
    answer: str
    """The key under which the question's answer is stored (`CacheKeys.exact`)."""
    vector: Vector
    """The question's embedding, of length 1."""


@dataclass(slots=True)
class _Partition:
    questions: list[Question] = field(default_factory=list)
    matrix: Vector | None = None
    """The vectors of `questions` as rows; None if there are no questions."""
    last: str = ""


class SimilarQuestions:
    """Finds cached questions that are similar to a new question, in copies that this process keeps of questions in
    Redis.

    A partition is a set of questions that may share answers; its name is `CacheKeys.partition`. The process has copies
    of the `MAX_PARTITIONS` partitions that were updated last.
    """

    def __init__(self) -> None:
        self._partitions: OrderedDict[str, _Partition] = OrderedDict()

    def last_id(self, partition: str) -> str:
        """Returns the Redis stream id of the newest question in the copy of a partition; empty if there is no copy."""
        known = self._partitions.get(partition)
        return known.last if known else ""

    def update(self, partition: str, questions: Sequence[Question]) -> None:
        """Adds new questions, oldest first, to the copy of a partition (a set of questions that may share answers).

        Questions that are not newer than the last one in the copy are skipped. The copy keeps the newest
        `MAX_QUESTIONS`, except those whose vector has another length than the newest question's. If there are more than
        `MAX_PARTITIONS` copies, the copy that was updated longest ago is dropped.
        """
        known = self._partitions.setdefault(partition, _Partition())
        self._partitions.move_to_end(partition)
        if len(self._partitions) > MAX_PARTITIONS:
            self._partitions.popitem(last=False)
        after = [question for question in questions if _order(question.stream_id) > _order(known.last)]
        if after:
            known.last = after[-1].stream_id
            # A vector of another length comes from another embedding model.
            known.questions = [
                question
                for question in [*known.questions, *after][-MAX_QUESTIONS:]
                if len(question.vector) == len(after[-1].vector)
            ]
            known.matrix = _stack(known.questions)

    def nearest(self, partition: str, vector: Vector, threshold: float) -> str:
        """Returns the key of the cached answer to the question in the partition that is most similar to `vector`.

        Similarity is the cosine; `vector` has length 1. Returns an empty text if no question has a similarity of at
        least `threshold`, or if the partition's vectors have another number of dimensions.
        """
        known = self._partitions.get(partition)
        if known is None or known.matrix is None or known.matrix.shape[1] != len(vector):
            return ""
        cosines = known.matrix @ vector
        best = int(cosines.argmax())
        return known.questions[best].answer if cosines[best] >= threshold else ""

    def remove(self, partition: str, answer: str) -> None:
        """Removes questions from this process's copy of a partition: all whose answer has the key `answer`."""
        known = self._partitions.get(partition)
        if known:
            known.questions = [question for question in known.questions if question.answer != answer]
            known.matrix = _stack(known.questions) if known.questions else None


def _stack(questions: Sequence[Question]) -> Vector:
    import numpy as np  # without a semantic cache the gateway may run without it

    return np.stack([question.vector for question in questions])


def encode_vector(vector: Vector) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def parse_question(stream_id: str, fields: dict[str, str]) -> Question | None:
    """Returns the question in an entry of a Redis stream; None if the entry's `fields` are invalid.

    `stream_id` is the id of the entry.
    """
    import numpy as np

    try:
        vector = np.frombuffer(base64.b64decode(fields["vector"], validate=True), "<f4")
        # A comparison with NaN would hide the other questions.
        return Question(stream_id, fields["answer"], vector) if len(vector) and np.isfinite(vector).all() else None
    except (KeyError, ValueError, binascii.Error):
        return None


def _order(stream_id: str) -> tuple[int, int]:
    """Returns a Redis stream id, such as "1526919030474-55", as two numbers to sort by; an empty id comes first."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds or 0), int(number or 0)


@dataclass(frozen=True, slots=True)
class LookupResult:
    answer: str | None
    """The JSON of the answer stored under the request's exact key; None if no answer is stored under it."""
    questions: tuple[Question, ...] = ()
    """The partition's questions that are newer than the stream id passed to `CacheStore.look_up`, oldest first."""


class CacheStore:
    """Reads and writes cached answers in Redis. Each tenant has an index and a size limit of its own.

    Each method raises Unavailable with the code "redis_unavailable" if Redis does not answer in time.
    """

    def __init__(self, redis: BoundedRedis, max_tenant_bytes: int = MAX_TENANT_BYTES) -> None:
        self._redis = redis
        self._max_tenant_bytes = max_tenant_bytes
        self._write = redis.client.register_script(read_script(__package__, "store_answer"))

    async def look_up(self, keys: CacheKeys, after: str) -> LookupResult:
        """Reads from Redis the answer with the exact key, and the questions in the request's partition that are newer
        than the stream id `after`.

        If `after` is empty, all questions of the partition are read. The result has at most `MAX_QUESTIONS` questions,
        without invalid ones, and none if `keys.partition` is empty.
        """
        if not keys.partition:
            return LookupResult(await self.read(keys.tenant, keys.exact))

        def both() -> Awaitable[Any]:
            pipeline = self._redis.client.pipeline(transaction=False)
            pipeline.get(_answer(keys.tenant, keys.exact))
            pipeline.xrange(
                _questions(keys.tenant, keys.partition), min=f"({after}" if after else "-", count=MAX_QUESTIONS
            )
            running: Awaitable[Any] = pipeline.execute()
            return running

        answer, news = await self._redis.call(both)
        read = (parse_question(stream_id, fields) for stream_id, fields in news)
        return LookupResult(answer, tuple(question for question in read if question is not None))

    async def read(self, tenant: str, digest: str) -> str | None:
        found: str | None = await self._redis.call(lambda: self._redis.client.get(_answer(tenant, digest)))
        return found

    async def write(self, keys: CacheKeys, answer: str, ttl_seconds: int, vector: Vector | None) -> None:
        """Stores an answer (`CacheableAnswer.json`) for `ttl_seconds` seconds.

        `vector` is the embedding of the answer's question, and is stored so that requests with similar questions can
        get the answer too. If it is None, only requests with the same exact key get the answer. If the tenant's size
        limit is exceeded, the tenant's answers that would expire first are deleted.
        """
        partition = keys.partition if vector is not None else ""
        names = [
            _answer(keys.tenant, keys.exact),
            _prefix(keys.tenant) + "index",
            _prefix(keys.tenant) + "sizes",
            _questions(keys.tenant, partition),
        ]
        encoded = encode_vector(vector) if vector is not None else ""
        arguments = [
            keys.exact,
            answer,
            ttl_seconds,
            self._max_tenant_bytes,
            MAX_QUESTIONS,
            partition,
            encoded,
            _prefix(keys.tenant),
        ]
        await self._redis.call(lambda: self._write(keys=names, args=arguments))


def _prefix(tenant: str) -> str:
    """Returns the beginning of the names of a tenant's Redis keys. It has braces, so that a Redis Cluster puts all keys
    of the tenant into one slot.
    """
    return f"{{pointsman:cache:{tenant}}}:"


def _answer(tenant: str, digest: str) -> str:
    return f"{_prefix(tenant)}answer:{digest}"


def _questions(tenant: str, partition: str) -> str:
    return f"{_prefix(tenant)}near:{partition}"
