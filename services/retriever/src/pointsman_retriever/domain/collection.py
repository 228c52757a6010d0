"""The classes of a collection: its id, its quota, and its state at one version."""

import re
from dataclasses import dataclass

DEFAULT_TENANT = "default"

LOCAL, SHARED, EXTERNAL = "local", "shared", "external"
"""The three places of a collection: the retriever's data folder, the store that several retrievers share, and a store
that the user already has and the retriever only reads.
"""


# For tenants and collections. No dots and no slashes, because a name is also the name of a folder.
NAME_PATTERN = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, order=True)
class CollectionId:
    """Identifies a collection by tenant and name; two tenants may have collections of the same name."""

    tenant: str
    name: str

    def __str__(self) -> str:
        return self.name if self.tenant == DEFAULT_TENANT else f"{self.tenant}/{self.name}"


@dataclass(frozen=True, slots=True)
class Quota:
    """The maximum numbers of documents, chunks, and bytes (documents and vectors) of a collection; 0 means no limit."""

    documents: int = 0
    chunks: int = 0
    bytes: int = 0


UNLIMITED = Quota()


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """The state of a collection at one version: its counts, settings, embedding model, and a checksum of its vectors.

    `fingerprint` identifies the embedding model, and `bytes` is the size of documents and vectors.
    """

    name: str
    fingerprint: str  # of the embedding model that made its vectors
    dimensions: int
    documents: int = 0
    chunks: int = 0
    version: int = 0  # incremented by each change
    tenant: str = DEFAULT_TENANT
    bytes: int = 0  # of documents and vectors
    checksum: int = 0  # of all vectors: digests.checksum_vectors
    quota: Quota = UNLIMITED
    search_settings: str = "{}"  # a SearchSettings in JSON
    store: str = LOCAL  # where it is

    @property
    def id(self) -> CollectionId:
        return CollectionId(self.tenant, self.name)
