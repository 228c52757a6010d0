"""A request for embeddings, the response to it, and the interface of embedding models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pointsman_gateway.codec.token_ids import TokenIds
from pointsman_gateway.domain import Overflow, Request
from pointsman_gateway.domain.request import Scope
from pointsman_gateway.domain.value import CHARACTERS_PER_TOKEN
from pointsman_gateway.model_calls.call import CallableModels, CallKind, Charge, ModelCall

EMBEDDINGS = CallKind(
    operation="embeddings",
    component="embedding",
    noun="embedding model",
    config_key="embeddings",
    key_option="--embedding",
    allows=Scope.allows_embedding,
)


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A client's request for embeddings: texts or token ids, and the wanted form of the vectors."""

    request: Request
    """The general part of the request: model, caller and deadline. Its only message is the first text, or is empty for
    token ids."""
    texts: tuple[str, ...] = ()
    token_ids: TokenIds | None = None
    """The texts as token ids, instead of `texts`; None if the client sent texts."""
    base64: bool = False
    """Whether vectors are returned as base64 of little-endian 32-bit floats; otherwise they are lists of numbers."""
    dimensions: int | None = None
    """The requested length of the vectors; None stands for the model's own."""
    overflow: Overflow | None = None
    """How texts that are too long are handled, such as "error" or "truncate"; None: as the model's
    configuration says."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The JSON body to send to a remote model; its field `model` is replaced by the model's name at the endpoint."""
    reserve: Callable[[int], None] | None = None
    """Function that reserves memory for a number of further bytes of a remote model's response; raises Unavailable if
    there is no memory left."""

    @property
    def estimate(self) -> Charge:
        return Charge(sum(len(t) // CHARACTERS_PER_TOKEN + 1 for t in self.texts) + sum(self._id_counts))

    @property
    def max_tokens(self) -> int:
        """Returns the largest possible number of tokens in all texts, without special tokens.

        No tokenizer makes more than one token of each UTF-8 byte.
        """
        return sum(len(t.encode()) for t in self.texts) + sum(self._id_counts)

    @property
    def count(self) -> int:
        """Returns the number of texts, including those that are given as token ids."""
        return len(self.texts) + len(self._id_counts)

    @property
    def _id_counts(self) -> Sequence[int]:
        return self.token_ids.counts if self.token_ids else ()


@dataclass(frozen=True, slots=True)
class EncodedEmbeddings:
    """The response to a request for embeddings, encoded as JSON in OpenAI's format, with the tokens to charge."""

    pieces: tuple[bytes, ...]
    """The body of the response in pieces, because writing it at once would block the event loop."""
    charge: Charge


class Embedder(Protocol):
    """Interface of an embedding model, local or remote; `LocalEmbedder` and `RemoteEmbedder` implement it."""

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Returns the response with one vector for each text of the request.

        Raises InvalidArgument if the model cannot take the request, NotFound if its endpoint does not serve the
        model, and Unavailable if the endpoint fails. Cancelling the call stops the work.
        """
        ...


EmbeddingRun = ModelCall[EmbeddingRequest, EncodedEmbeddings]
Embeddings = CallableModels[EmbeddingRequest, EncodedEmbeddings]
