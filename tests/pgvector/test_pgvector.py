"""Collections in a table of a real PostgreSQL with pgvector, which `make test-pgvector` installs and starts."""

import json
import os
from collections.abc import Iterator

import pg8000.dbapi as postgres
import pytest
from pointsman_retriever.external.pgvector import PgvectorTable
from pointsman_retriever.external.stores import ExternalOptions

from tests.retriever.external_conformance import DIMENSIONS, FIELDS, Conformance, payloads, rows

PORT = int(os.environ.get("POINTSMAN_TEST_POSTGRES_PORT", "5499"))
URL = f"postgresql://postgres@127.0.0.1:{PORT}/postgres"


def run(*statements: str) -> None:
    connection = postgres.connect(user="postgres", host="127.0.0.1", port=PORT, database="postgres")
    connection.autocommit = True
    for statement in statements:
        connection.cursor().execute(statement)
    connection.close()


class TestPgvector(Conformance):
    implementation = PgvectorTable
    has_words = True

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls) -> Iterator[ExternalOptions]:
        columns = ", ".join(f"{name} text" for name in payloads()[0])
        run(
            "CREATE EXTENSION IF NOT EXISTS vector",
            "DROP TABLE IF EXISTS docs",
            f"CREATE TABLE docs (id int PRIMARY KEY, embedding vector({DIMENSIONS}), {columns})",
            *(
                f"INSERT INTO docs VALUES ({row.number}, '{json.dumps(row.vector.tolist())}', "
                + ", ".join(f"'{value}'" for value in payload.values())
                + ")"
                for row, payload in zip(rows(), payloads(), strict=True)
            ),
        )
        yield ExternalOptions(URL, "docs", "", 5.0, FIELDS)
        run("DROP TABLE docs")

    @pytest.fixture
    def unreachable(self) -> ExternalOptions:
        return ExternalOptions("postgresql://postgres@127.0.0.1:9/postgres", "docs", "", 1.0, FIELDS)

    def test_its_connections_cannot_write(self, options: ExternalOptions) -> None:
        table = PgvectorTable(options)
        with pytest.raises(postgres.DatabaseError, match="read-only transaction"):
            table._run("DELETE FROM docs RETURNING id", ())
        table.close()
