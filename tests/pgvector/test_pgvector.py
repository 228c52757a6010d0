"""Collections in a table of a real PostgreSQL with pgvector."""

import json
from collections.abc import Iterator

import pytest
from pointsman_retriever.external.pgvector import PgvectorTable
from pointsman_retriever.external.stores import ExternalOptions
from pointsman_retriever.postgres_client import PostgresFailure

from tests.pgvector.conftest import Run
from tests.retriever.external_conformance import DIMENSIONS, FIELDS, Conformance, payloads, rows


class TestPgvector(Conformance):
    implementation = PgvectorTable
    has_words = True

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls, url: str, run: Run) -> Iterator[ExternalOptions]:
        columns = ", ".join(f"{name} text" for name in payloads()[0])
        run(
            "DROP TABLE IF EXISTS docs",
            f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({DIMENSIONS}), {columns})",
            *(
                f"INSERT INTO docs VALUES ({row.number}, '{json.dumps(row.vector.tolist())}', "
                + ", ".join(f"'{value}'" for value in payload.values())
                + ")"
                for row, payload in zip(rows(), payloads(), strict=True)
            ),
        )
        yield ExternalOptions(url, "docs", "", 5.0, FIELDS)
        run("DROP TABLE docs")

    @pytest.fixture
    def unreachable(self) -> ExternalOptions:
        return ExternalOptions("postgresql://postgres@127.0.0.1:9/postgres", "docs", "", 1.0, FIELDS)

    def test_its_connections_cannot_write(self, options: ExternalOptions) -> None:
        table = PgvectorTable(options)
        with pytest.raises(PostgresFailure, match="read-only transaction"):
            table._run("DELETE FROM docs RETURNING id", ())
        table.close()
