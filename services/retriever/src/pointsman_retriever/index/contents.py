"""All that is held in memory of a collection: the same chunks by vector, by word and by metadata, at one moment."""

from dataclasses import dataclass
from typing import Protocol

from pointsman_retriever.domain import ChunkDelta, CollectionInfo, Ids, Vectors
from pointsman_retriever.index.bm25 import WordIndex
from pointsman_retriever.index.columns import MetadataIndex


class VectorIndex(Protocol):
    """Unit vectors by chunk, nearest by inner product, as they are at one moment.

    `after` makes the next moment's, and this one stays as it is for those who search it: no reader ever waits for a
    writer. It is called by one thread at a time, and on the last moment only: moments share their rows, and what
    follows an earlier one takes the place of later rows that are searched. What it made may be thrown away, where a
    change could not be committed: then `after` is called again on the same index.
    """

    @property
    def count(self) -> int: ...

    @property
    def checksum(self) -> int:
        """digests.of_vectors of what it holds."""

    def after(self, removed: Ids, added: Ids, vectors: Vectors) -> "VectorIndex":
        """`added` are ascending, and greater than all before."""

    def nearest(self, vector: Vectors, count: int, among: Ids | None) -> Ids:
        """The ids of at most `count` vectors, the nearest first; of `among` only, where it is given."""

    def of(self, ids: Ids) -> Vectors:
        """(n, dimensions), the vectors with these ids, which must be there."""

    @property
    def wants_tidying(self) -> bool:
        """Whether `tidied` would make much of it."""

    def tidied(self) -> "VectorIndex":
        """The same vectors, quicker to search, in rows of their own; may take seconds, in any thread.

        What has changed meanwhile it is told with `after`, while the moments that followed this one are searched.
        """

    def close(self) -> None:
        """Frees what it holds elsewhere, of all its moments; nobody searches it any more."""


@dataclass(frozen=True, slots=True)
class IndexSnapshot:
    """`after` is for the last moment only, as Index says, for all its parts."""

    vectors: VectorIndex
    words: WordIndex
    columns: MetadataIndex

    def after(self, delta: ChunkDelta) -> "IndexSnapshot":
        """See Index.after."""
        removed, added = delta.removed, delta.added
        return IndexSnapshot(
            self.vectors.after(removed, added.ids, added.vectors),
            self.words.after(removed, added.ids, added.texts),
            self.columns.after(removed, added.ids, added.documents, added.metadata),
        )

    def differences(self, collection: CollectionInfo) -> list[str]:
        """What is wrong, where it should hold the collection's chunks."""
        found = [
            f"there are {count:,} {what} for {collection.chunks:,} chunks"
            for what, count in (
                ("vectors", self.vectors.count),
                ("word lists", self.words.count),
                ("rows of metadata", self.columns.count),
            )
            if count != collection.chunks
        ]
        if self.vectors.checksum != collection.checksum:
            found.append(
                f"the vectors' checksum is {self.vectors.checksum:016x}, and {collection.checksum:016x} is right"
            )
        return found

    @property
    def wants_tidying(self) -> bool:
        return self.vectors.wants_tidying or self.words.wants_tidying or self.columns.wants_tidying

    def tidied(self) -> "CompactedParts":
        return CompactedParts(
            self.vectors.tidied() if self.vectors.wants_tidying else None,
            self.words.tidied() if self.words.wants_tidying else None,
            self.columns.tidied() if self.columns.wants_tidying else None,
        )

    def having(self, tidied: "CompactedParts") -> "IndexSnapshot":
        """The same moment, with these parts in the place of its own."""
        return IndexSnapshot(
            self.vectors if tidied.vectors is None else tidied.vectors,
            self.words if tidied.words is None else tidied.words,
            self.columns if tidied.columns is None else tidied.columns,
        )

    def close(self) -> None:
        self.vectors.close()


@dataclass(frozen=True, slots=True)
class CompactedParts:
    """Those parts of a moment that wanted tidying, made anew; None for the others.

    These share their rows with no moment, so that `after` can bring them to where the collection is by now while its
    moments are searched. The others have followed each change already, and must not do so twice.
    """

    vectors: VectorIndex | None
    words: WordIndex | None
    columns: MetadataIndex | None

    def after(self, delta: ChunkDelta) -> "CompactedParts":
        removed, added = delta.removed, delta.added
        return CompactedParts(
            self.vectors and self.vectors.after(removed, added.ids, added.vectors),
            self.words and self.words.after(removed, added.ids, added.texts),
            self.columns and self.columns.after(removed, added.ids, added.documents, added.metadata),
        )
