"""One change of a collection: a transaction in which the tables, the words and the counts move together."""

import sqlite3
from dataclasses import dataclass, field

import numpy as np

from pointsman_retriever.domain import Collection, Ids, MadeDocument, Vectors
from pointsman_retriever.store.schema import words_table


@dataclass(slots=True)
class Change:
    """Made by `Store.changing`; nothing is kept without `commit`."""

    connection: sqlite3.Connection
    number: int  # of the collection
    before: Collection
    removed: list[int] = field(default_factory=list)  # ids of chunks
    added: list[int] = field(default_factory=list)
    vectors: list[Vectors] = field(default_factory=list)
    documents: int = 0  # by how many the collection has grown

    @property
    def removed_ids(self) -> Ids:
        return np.array(self.removed, np.int64)

    @property
    def added_ids(self) -> Ids:
        return np.array(self.added, np.int64)

    @property
    def added_vectors(self) -> Vectors:
        """(added, dimensions)."""
        return np.concatenate(self.vectors) if self.vectors else np.empty((0, self.before.dimensions), np.float32)

    def put(self, made: MadeDocument) -> None:
        """Adds a document, in the place of the one with its id."""
        self.remove(made.document.id)
        document = made.document
        row = self.connection.execute(
            "INSERT INTO documents (collection, id, title, text) VALUES (?, ?, ?, ?)",
            (self.number, document.id, document.title, document.text),
        ).lastrowid
        self.connection.executemany(
            "INSERT INTO metadata (document, key, value) VALUES (?, ?, ?)",
            [(row, key, value) for key, value in document.metadata.items()],
        )
        for chunk, vector in zip(made.chunks, made.vectors, strict=True):
            number = self.connection.execute(
                "INSERT INTO chunks (document, start, end, context, text, vector) VALUES (?, ?, ?, ?, ?, ?)",
                (row, chunk.start, chunk.end, chunk.context, chunk.text, vector.astype("<f4").tobytes()),
            ).lastrowid
            assert number is not None  # an INSERT has one
            self.connection.execute(
                f"INSERT INTO {words_table(self.number)} (rowid, text) VALUES (?, ?)", (number, chunk.in_context)
            )
            self.added.append(number)
        self.vectors.append(made.vectors)
        self.documents += 1

    def remove(self, document_id: str) -> bool:
        """Whether the document was there."""
        found = self.connection.execute(
            "SELECT row FROM documents WHERE collection = ? AND id = ?", (self.number, document_id)
        ).fetchone()
        if found is None:
            return False
        chunks = [number for (number,) in self.connection.execute("SELECT id FROM chunks WHERE document = ?", found)]
        self.connection.executemany(
            f"DELETE FROM {words_table(self.number)} WHERE rowid = ?", [(number,) for number in chunks]
        )
        self.connection.execute("DELETE FROM documents WHERE row = ?", found)
        self.removed.extend(chunks)
        self.documents -= 1
        return True

    def commit(self) -> Collection:
        """Puts the change on the disk, and returns the collection after it."""
        after = Collection(
            name=self.before.name,
            fingerprint=self.before.fingerprint,
            dimensions=self.before.dimensions,
            documents=self.before.documents + self.documents,
            chunks=self.before.chunks + len(self.added) - len(self.removed),
            version=self.before.version + 1,
        )
        self.connection.execute(
            "UPDATE collections SET documents = ?, chunks = ?, version = ? WHERE id = ?",
            (after.documents, after.chunks, after.version, self.number),
        )
        self.connection.execute("COMMIT")
        return after
