"""Writes the chunks of documents to PostgreSQL before the documents, so that the collection is locked for a shorter
time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pointsman_retriever.domain import CollectionInfo, EncodedDocument
from pointsman_retriever.index.term_analyzer import TermAnalyzer
from pointsman_retriever.shared.binary_rows import from_bigint, from_int, from_terms, from_vector, to_copy
from pointsman_retriever.shared.changes import has_nul, to_record
from pointsman_retriever.shared.pgvector_reader import PgvectorReader, Tables, to_term

ROWS_PER_COPY = 200  # the timeout is that of each statement, and adding a vector to the index takes some milliseconds


@dataclass(frozen=True, slots=True)
class _Staged:
    number: int  # of the document's row, which does not exist yet
    document: EncodedDocument
    words: int
    terms: Counter[str]  # term -> the document's chunks that have it


class StagedChunks:
    """The chunks that the transaction of `cursor` has written for documents that may be added later in the transaction.

    At the end of the transaction, `discard_others` must be called to delete the chunks of documents that were not
    added.
    """

    def __init__(self, cursor: Any, analyzer: TermAnalyzer) -> None:
        self._cursor = cursor
        self._analyzer = analyzer
        self._staged: dict[str, _Staged] = {}
        self._unused: list[int] = []

    def write_changed(self, tables: Tables, info: CollectionInfo, documents: Sequence[EncodedDocument]) -> None:
        """Writes the chunks of the documents that are new or differ from the stored ones.

        Leaves out documents with a NUL character, and documents whose vectors have other dimensions than the
        collection's: the change itself rejects such a document, without failing other callers' changes. Dimensions may
        differ if another retriever has meanwhile created the collection again with another embedding model.
        """
        documents = [one for one in documents if not has_nul(one) and one.vectors.shape[1] == info.dimensions]
        reader = PgvectorReader(self._cursor, tables, info, 0)
        stored = reader.find([one.document.id for one in documents])
        self.write(tables, [one for one in documents if stored.get(one.document.id) != to_record(one)])

    def write(self, tables: Tables, documents: Sequence[EncodedDocument]) -> None:
        """Writes the chunks of the documents, except documents whose chunks this object has already written."""
        new = [one for one in documents if not self._has(one)]
        if not new:
            return
        self._cursor.execute(
            "SELECT nextval(pg_get_serial_sequence(%s, 'number')) FROM generate_series(1, %s)",
            (tables.documents, len(new)),
        )
        rows: list[tuple[bytes, ...]] = []
        for document, (number,) in zip(new, self._cursor.fetchall(), strict=True):
            words, terms = 0, Counter[str]()
            for chunk, vector in zip(document.chunks, document.vectors, strict=True):
                counts = _to_lexemes(self._analyzer.document_terms(chunk.embedded_text))
                length = counts.total()
                words += length
                terms.update(counts.keys())
                rows.append(
                    (from_bigint(number), from_int(chunk.start), from_int(chunk.end), chunk.context.encode(),
                     chunk.text.encode(), from_vector(vector), from_int(length), from_terms(counts))
                )  # fmt: skip
            if earlier := self._staged.get(document.document.id):
                self._unused.append(earlier.number)
            self._staged[document.document.id] = _Staged(number, document, words, terms)
        columns = 'document, start, "end", context, text, vector, length, words'
        for start in range(0, len(rows), ROWS_PER_COPY):
            part = BytesIO(to_copy(rows[start : start + ROWS_PER_COPY]))
            self._cursor.execute(f"COPY {tables.chunks} ({columns}) FROM STDIN WITH (FORMAT binary)", stream=part)

    def number(self, document: EncodedDocument) -> int:
        return self._staged[document.document.id].number

    def words_and_terms(self, documents: Sequence[EncodedDocument]) -> tuple[int, Counter[str]]:
        """Returns the number of words in all chunks of the documents, and for each term the number of chunks that have
        it.

        The chunks must have been written by this object.
        """
        words, terms = 0, Counter[str]()
        for one in documents:
            staged = self._staged[one.document.id]
            words += staged.words
            terms.update(staged.terms)
        return words, terms

    def discard_others(self, tables: Tables, documents: Sequence[EncodedDocument]) -> None:
        """Deletes all chunks that this object has written, except the chunks of `documents`."""
        kept = {one.document.id for one in documents}
        others = [staged.number for document_id, staged in self._staged.items() if document_id not in kept]
        others += self._unused
        if others:
            self._cursor.execute(f"DELETE FROM {tables.chunks} WHERE document = ANY(%s::bigint[])", (others,))

    def _has(self, document: EncodedDocument) -> bool:
        staged = self._staged.get(document.document.id)
        return staged is not None and staged.document is document


def _to_lexemes(counts: Mapping[str, int]) -> Counter[str]:
    """Returns the terms as they are stored; very long ones are cut off, and may become equal."""
    lexemes = Counter[str]()
    for term, count in counts.items():
        lexemes[to_term(term)] += count
    return lexemes
