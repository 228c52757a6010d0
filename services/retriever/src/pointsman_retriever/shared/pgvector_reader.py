"""Reads a collection in PostgreSQL: the candidates of a search, their passages, and whole documents."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import (
    Chunk,
    CollectionInfo,
    Document,
    EncodedDocument,
    Neighbour,
    Passage,
    RankedChunk,
    Vectors,
    to_passage,
)
from pointsman_retriever.index.bm25 import IDF_EXPONENT, K1, B, inverse_frequencies
from pointsman_retriever.shared.sql_filters import to_array, to_condition
from pointsman_retriever.shared.stores import CandidateQuery, Candidates, DocumentRecord

Frequencies = NDArray[np.int64]

MAX_EXACT_CHUNKS = 20_000  # of a collection whose vectors are compared exactly, as FAISS does
MAX_WORDED_CHUNKS = 10_000  # chunks that are found by a search's rarest terms, and scored
MAX_SCORED_TERMS = 128  # the rarest ones of a query
MAX_TERM_CHARACTERS = 500  # of at most 4 bytes; PostgreSQL takes 2,046 bytes

# A parameter is converted once if it is selected, and otherwise for each row.
#
# ts_rank of one term that occurs n times in positions of weight 1 is the sum of 1 / i**2 up to n, divided by this
# (calc_rank_or in PostgreSQL's tsrank.c). `_COUNT` converts it back to n.
_RANK_DIVISOR = 1.64493406685
_RANKS = np.cumsum(1.0 / np.arange(1, 60) ** 2) / _RANK_DIVISOR
_THRESHOLDS = "{" + ",".join(f"{rank:.9f}" for rank in (_RANKS - np.diff(_RANKS, prepend=0.0) / 2)[:40]) + "}"
_COUNT = f"width_bucket(ts_rank('{{1,1,1,1}}', words, (SELECT %s::tsquery))::float8, '{_THRESHOLDS}'::float8[])"


@dataclass(frozen=True, slots=True)
class Tables:
    """The quoted SQL names of a collection's three tables: of documents, of chunks, and of terms with numbers of
    chunks.
    """

    documents: str
    chunks: str
    terms: str

    @classmethod
    def of(cls, schema: str, number: int) -> "Tables":
        return cls(*(f"{schema}.{table}_{number}" for table in ("documents", "chunks", "terms")))


class PgvectorReader:
    """Reads one version of a collection, in the transaction of a cursor; implements SharedReader."""

    def __init__(self, cursor: Any, tables: Tables, info: CollectionInfo, words: int) -> None:
        """Takes the names of the collection's `tables`, the collection's state `info`, and `words`, the number of words
        in all its chunks.
        """
        self.info = info
        self._cursor = cursor
        self._tables = tables
        self._words = words

    def candidates(self, query: CandidateQuery) -> Candidates:
        terms = list(query.terms)
        frequencies = self._frequencies(terms)
        # The rarest terms decide; counting those that are nearly everywhere would take long.
        counted = sorted((place for place in range(len(terms)) if frequencies[place]), key=frequencies.__getitem__)
        counted = counted[:MAX_SCORED_TERMS]
        found = set() if query.vector is None else self._near(query, query.vector)
        if query.by_words and counted:
            found |= self._worded(query, [(terms[place], int(frequencies[place])) for place in counted])
        return self._describe(sorted(found), terms, counted, frequencies)

    def passages(self, ranked: Sequence[RankedChunk], neighbours: int) -> tuple[Passage, ...]:
        rows = self._rows(
            'SELECT c.id, d.number, d.id, d.title, c.text, c.start, c."end", d.metadata, c.context '
            f"FROM {self._tables.chunks} c JOIN {self._tables.documents} d ON d.number = c.document "
            "WHERE c.id = ANY(%s::bigint[])",
            [one.chunk for one in ranked],
        )
        by_id = {row[0]: row[1:] for row in rows}
        return tuple(self._passage(one, by_id[one.chunk], neighbours) for one in ranked)

    def find(self, ids: Sequence[str]) -> Mapping[str, DocumentRecord]:
        possible = to_array(one for one in ids if _may_be_stored(one))
        return dict(map(_to_record, self._rows(f"{self._records} WHERE id = ANY(%s::text[])", possible)))

    def ids_of_source(self, source: str) -> list[str]:
        if not _may_be_stored(source):
            return []
        return [row[0] for row in self._rows(f"SELECT id FROM {self._tables.documents} WHERE source = %s", source)]

    def document_digests(self) -> Iterator[tuple[str, bytes]]:
        after = ""
        while rows := self.records(after, 10_000):
            yield from ((name, record.digest) for name, record in rows)
            after = rows[-1][0]

    def records(self, after: str, count: int) -> Sequence[tuple[str, DocumentRecord]]:
        rows = self._rows(f"{self._records} WHERE id > %s ORDER BY id LIMIT %s", after, count)
        return [_to_record(row) for row in rows]

    def documents(self, after: str, count: int) -> Sequence[EncodedDocument]:
        return self._documents("id > %s ORDER BY id LIMIT %s", after, count)

    def document(self, document_id: str) -> EncodedDocument | None:
        if not _may_be_stored(document_id):
            return None
        return next(iter(self._documents("id = %s", document_id)), None)

    def _documents(self, condition: str, *parameters: Any) -> Sequence[EncodedDocument]:
        rows = self._rows(
            f"WITH d AS (SELECT * FROM {self._tables.documents} WHERE {condition}) "
            'SELECT d.id, d.title, d.text, d.metadata, d.recipe, d.source, c.text, c.start, c."end", c.context, '
            f"vector_send(c.vector) FROM d JOIN {self._tables.chunks} c ON c.document = d.number "
            "ORDER BY d.id, c.start, c.id",
            *parameters,
        )
        return [_to_document(list(group)) for _, group in groupby(rows, key=lambda row: row[0])]

    def sample_vectors(self, count: int) -> Vectors:
        rows = self._rows(
            f"SELECT vector_send(vector) FROM {self._tables.chunks} WHERE id IN (SELECT id FROM {self._tables.chunks} "
            "ORDER BY (id * 2654435761) %% 4294967296, id LIMIT %s) ORDER BY id",
            count,
        )
        return _to_vectors([row[0] for row in rows], self.info.dimensions)

    @property
    def _records(self) -> str:
        return f"SELECT id, digest, recipe, source, bytes, chunks, checksum FROM {self._tables.documents}"

    def _rows(self, statement: str, *parameters: Any) -> list[Any]:
        self._cursor.execute(statement, parameters)
        rows: list[Any] = list(self._cursor.fetchall())
        return rows

    def _frequencies(self, terms: Sequence[str]) -> Frequencies:
        """Returns in how many chunks of the collection each term is: (terms,)."""
        stored = [to_term(term) for term in terms]
        found = dict(
            self._rows(f"SELECT term, chunks FROM {self._tables.terms} WHERE term = ANY(%s::text[])", to_array(stored))
        )
        return np.array([found.get(term, 0) for term in stored], np.int64)

    def _among(self, query: CandidateQuery) -> tuple[str, list[Any]]:
        """Returns the condition that the query's filter puts on chunks, and its parameters."""
        if query.filter is None:
            return "true", []
        condition, parameters = to_condition(query.filter)
        return f"document IN (SELECT number FROM {self._tables.documents} WHERE {condition})", parameters

    def _near(self, query: CandidateQuery, vector: Vectors) -> set[int]:
        """Returns the ids of the nearest chunks.

        In a large collection they are found by the HNSW index, unless that finds too few that match the filter.
        """
        among, parameters = self._among(query)
        given = json.dumps(vector.tolist())
        if self.info.chunks > MAX_EXACT_CHUNKS:
            half = f"halfvec({self.info.dimensions})"
            rows = self._rows(
                f"SELECT id FROM {self._tables.chunks} WHERE {among} "
                f"ORDER BY vector::{half} <#> (SELECT %s::{half}) LIMIT %s",
                *(*parameters, given, query.count),
            )
            if len(rows) == query.count:
                return {row[0] for row in rows}
        # The index is not on this expression, so all vectors are compared.
        rows = self._rows(
            f"SELECT id FROM {self._tables.chunks} WHERE {among} ORDER BY vector <#> (SELECT %s::vector) LIMIT %s",
            *(*parameters, given, query.count),
        )
        return {row[0] for row in rows}

    def _worded(self, query: CandidateQuery, terms: Sequence[tuple[str, int]]) -> set[int]:
        """Returns the ids of the chunks with the best BM25 scores.

        `terms` has the query's terms with their numbers of chunks, the rarest first. Chunks are found by the rarest
        terms, as long as these are in at most MAX_WORDED_CHUNKS chunks together, but at least by one term. The other
        terms only count in the scores. In a collection of no more chunks, all terms find.
        """
        chunks = self.info.chunks
        reached = np.cumsum([frequency for _, frequency in terms])
        finding = terms[: max(int((reached <= MAX_WORDED_CHUNKS).sum()), 1)] if chunks > MAX_WORDED_CHUNKS else terms
        among, parameters = self._among(query)
        idf = inverse_frequencies(chunks, np.array([frequency for _, frequency in terms]))
        weights = [query.terms[term] * float(one) ** IDF_EXPONENT for (term, _), one in zip(terms, idf, strict=True)]
        # n / (n + s) is written with a single n, because each n is computed anew.
        score = " + ".join(f"{weight!r} * (1.0 - s / (s + {_COUNT}))" for weight in weights)
        saturation = f"{K1 * (1.0 - B)!r} + {K1 * B / (max(self._words, 1) / max(chunks, 1))!r} * length"
        rows = self._rows(
            f"SELECT id FROM (SELECT id, words, ({saturation})::float8 AS s FROM {self._tables.chunks} "
            f"WHERE words @@ (SELECT %s::tsquery) AND {among} LIMIT {MAX_WORDED_CHUNKS}) AS found "
            f"ORDER BY {score} DESC, id LIMIT %s",
            *(" | ".join(_to_tsquery(term) for term, _ in finding), *parameters),
            *(*(_to_tsquery(term) for term, _ in terms), query.count),
        )
        return {row[0] for row in rows}

    def _describe(
        self, ids: list[int], terms: Sequence[str], counted: Sequence[int], frequencies: Frequencies
    ) -> Candidates:
        """Reads the candidates; `counted` are the places of the `terms` that are counted in them."""
        rows = self._rows(
            f"SELECT id, document, length, vector_send(vector), ARRAY[{', '.join([_COUNT] * len(counted))}]::int[] "
            f"FROM {self._tables.chunks} WHERE id = ANY(%s::bigint[]) ORDER BY id",
            *(*(_to_tsquery(terms[place]) for place in counted), ids),
        )
        counts = np.zeros((len(rows), len(terms)), np.int32)
        if counted and rows:
            counts[:, counted] = [row[4] for row in rows]
        return Candidates(
            ids=np.array([row[0] for row in rows], np.int64),
            documents=np.array([row[1] for row in rows], np.int64),
            vectors=_to_vectors([row[3] for row in rows], self.info.dimensions),
            counts=counts,
            lengths=np.array([row[2] for row in rows], np.int32),
            frequencies=frequencies,
            words=self._words,
        )

    def _passage(self, ranked: RankedChunk, row: Sequence[Any], neighbours: int) -> Passage:
        document, *content = row
        start = content[3]
        before = self._neighbours(document, "start < %s ORDER BY start DESC", start, neighbours)
        after = self._neighbours(document, "start > %s ORDER BY start", start, neighbours)
        return to_passage(ranked, content, before[::-1], after)

    def _neighbours(self, document: int, condition: str, start: int, count: int) -> tuple[Neighbour, ...]:
        if not count:
            return ()
        rows = self._rows(
            f'SELECT text, start, "end" FROM {self._tables.chunks} WHERE document = %s AND {condition} LIMIT %s',
            *(document, start, count),
        )
        return tuple(Neighbour(*row) for row in rows)


def to_term(term: str) -> str:
    """Returns a search term in the form in which PostgreSQL stores it."""
    return term[:MAX_TERM_CHARACTERS]


def _may_be_stored(text: str) -> bool:
    """Returns whether PostgreSQL can store a text. A statement with any other text fails, and so does all that its
    transaction has done for other callers.
    """
    return "\0" not in text


def _to_tsquery(term: str) -> str:
    return "'" + to_term(term).replace("\\", "\\\\").replace("'", "''") + "'"


def _to_record(row: Sequence[Any]) -> tuple[str, DocumentRecord]:
    return row[0], DocumentRecord(bytes(row[1]), *row[2:])


def _to_document(rows: Sequence[Sequence[Any]]) -> EncodedDocument:
    """Converts the rows of a document's chunks."""
    document_id, title, text, metadata, recipe, source, *_ = rows[0]
    return EncodedDocument(
        document=Document(document_id, title, text, metadata),
        chunks=tuple(Chunk(*row[6:10]) for row in rows),
        vectors=_to_vectors([row[10] for row in rows], 0),
        recipe=recipe,
        source=source,
    )


def _to_vectors(raw: Sequence[bytes], dimensions: int) -> Vectors:
    """Converts vectors in the binary form of pgvector; `dimensions` is used only if there are none."""
    if not raw:
        return np.empty((0, dimensions), np.float32)
    return np.stack([np.frombuffer(one, ">f4", offset=4) for one in raw]).astype(np.float32)  # after two 16-bit numbers
