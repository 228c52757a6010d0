"""All indexes of a collection at one version: the same chunks indexed by vector, by word and by metadata."""

from dataclasses import dataclass

from pointsman_retriever.domain import ChunkDelta, CollectionInfo
from pointsman_retriever.index.bm25 import WordIndex
from pointsman_retriever.index.metadata_index import MetadataIndex
from pointsman_retriever.index.vector_stores import VectorIndex


@dataclass(frozen=True, slots=True)
class IndexSnapshot:
    """All indexes of one version of a collection; immutable.

    `with_changes` of the latest snapshot makes the next one; only one thread at a time may call it.
    """

    vectors: VectorIndex
    words: WordIndex
    metadata: MetadataIndex

    def with_changes(self, delta: ChunkDelta) -> "IndexSnapshot":
        removed, added = delta.removed, delta.added
        return IndexSnapshot(
            self.vectors.with_changes(removed, added.ids, added.vectors),
            self.words.with_changes(removed, added.ids, added.texts),
            self.metadata.with_changes(removed, added.ids, added.documents, added.metadata),
        )

    def differences(self, collection: CollectionInfo) -> list[str]:
        """Returns a sentence for each way in which the indexes disagree with the collection's counts and checksum; []
        if they agree.
        """
        found = [
            f"there are {count:,} {what} for {collection.chunks:,} chunks"
            for what, count in (
                ("vectors", self.vectors.count),
                ("word lists", self.words.count),
                ("rows of metadata", self.metadata.count),
            )
            if count != collection.chunks
        ]
        if self.vectors.checksum != collection.checksum:
            found.append(f"the vectors' checksum is {self.vectors.checksum:016x}, expected {collection.checksum:016x}")
        return found

    @property
    def needs_compaction(self) -> bool:
        return self.vectors.needs_compaction or self.words.needs_compaction or self.metadata.needs_compaction

    def compacted(self) -> "CompactedParts":
        return CompactedParts(
            self.vectors.compacted() if self.vectors.needs_compaction else None,
            self.words.compacted() if self.words.needs_compaction else None,
            self.metadata.compacted() if self.metadata.needs_compaction else None,
        )

    def with_parts(self, compacted: "CompactedParts") -> "IndexSnapshot":
        """Returns a copy of this snapshot in which the indexes that a compaction has rebuilt replace the present ones.

        An index that is None in `compacted` is kept.
        """
        return IndexSnapshot(
            self.vectors if compacted.vectors is None else compacted.vectors,
            self.words if compacted.words is None else compacted.words,
            self.metadata if compacted.metadata is None else compacted.metadata,
        )

    def close(self) -> None:
        self.vectors.close()


@dataclass(frozen=True, slots=True)
class CompactedParts:
    """The indexes of a collection that a compaction has rebuilt without deleted rows.

    An index that did not need to be rebuilt is None. `with_changes` applies a change that was made during the
    compaction to the rebuilt indexes.
    """

    vectors: VectorIndex | None
    words: WordIndex | None
    metadata: MetadataIndex | None

    def with_changes(self, delta: ChunkDelta) -> "CompactedParts":
        removed, added = delta.removed, delta.added
        return CompactedParts(
            self.vectors and self.vectors.with_changes(removed, added.ids, added.vectors),
            self.words and self.words.with_changes(removed, added.ids, added.texts),
            self.metadata and self.metadata.with_changes(removed, added.ids, added.documents, added.metadata),
        )
