"""The page's queries give the same rows in DuckDB, a real ClickHouse and BigQuery's dialect (`make test-records`).

No BigQuery runs outside Google's cloud: its statements are parsed in its dialect, and run by DuckDB.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pointsman_gateway.export.tables import SCHEMAS

from tests.gateway.doubles.exports import NOON, ExportHarness, exported, files_in
from tests.records.records import of_tenant

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "records"
TENANTS = ("", "12", "007", "acme")
BIGQUERY_TYPES = {pa.string(): "STRING", pa.float64(): "FLOAT64", pa.int64(): "INT64"}
DAY = 86_400

Rows = list[tuple[Any, ...]]


def page_queries() -> list[str]:
    (block,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "records.md").read_text(), re.DOTALL)
    return [query.rstrip(";") for query in block.strip().split("\n")]


def statements(name: str) -> list[str]:
    """Returns the statements of an example file."""
    lines = [line for line in (EXAMPLES / name).read_text().splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def in_order(rows: Sequence[Sequence[Any]]) -> Rows:
    """Returns the rows in a fixed order, with dates as text and numbers of 9 digits, in which databases agree."""
    plain = [tuple(f"{one:.9g}" if isinstance(one, float) else str(one) for one in row) for row in rows]
    return sorted(plain)


def run_duckdb(records: Path) -> list[Rows]:
    with duckdb.connect() as connection:
        for statement in statements("duckdb.sql"):
            connection.execute(statement.replace("'records/", f"'{records}/"))
        return [in_order(connection.execute(query).fetchall()) for query in page_queries()]


def run_clickhouse(records: Path) -> list[Rows]:
    session = pytest.importorskip("chdb.session", reason="make test-records installs it").Session()
    try:
        for statement in statements("clickhouse.sql"):
            local, number = re.subn(r"s3\('https://BUCKET[^/]*/records/", f"file('{records}/", statement)
            assert number == 1
            session.query(local)
        answers = [str(session.query(query, "JSONCompactEachRow")) for query in page_queries()]
    finally:
        session.close()
    return [in_order([json.loads(line) for line in answer.splitlines()]) for answer in answers]


EXTERNAL_TABLE = re.compile(
    r"CREATE EXTERNAL TABLE (?P<name>dataset\.\w+) \((?P<columns>[^)]*)\)\s"
    r"WITH PARTITION COLUMNS \((?P<partitions>[^)]*)\)\s"
    r"OPTIONS \(\s+format = 'PARQUET',\s+uris = \['(?P<files>[^']+)'\],\s+hive_partition_uri_prefix = '[^']+'\s\)"
)
"""The statement of BigQuery that no other dialect has."""


def run_bigquery(records: Path) -> list[Rows]:
    sqlglot = pytest.importorskip("sqlglot", reason="make test-records installs it")

    def translated(statement: str) -> str:
        parsed = sqlglot.parse_one(statement, read="bigquery")
        assert not isinstance(parsed, sqlglot.exp.Command)  # what sqlglot does not understand
        return str(parsed.sql("duckdb"))

    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA dataset; USE dataset")
        for statement in statements("bigquery.sql"):
            if external := EXTERNAL_TABLE.fullmatch(statement):
                columns = f"{external['columns']}, {external['partitions']}"
                connection.execute(translated(f"CREATE TABLE {external['name']} ({columns})"))
                files = external["files"].replace("gs://BUCKET/records", str(records)) + "/*/*.parquet"
                types = "hive_types = {'day': DATE, 'tenant': VARCHAR}, union_by_name = true"
                source = f"SELECT * FROM read_parquet('{files}', {types})"
                connection.execute(f"INSERT INTO {external['name']} BY NAME {source}")
            else:
                connection.execute(translated(statement))
        return [in_order(connection.execute(translated(query)).fetchall()) for query in page_queries()]


@pytest.fixture
def records(harness: ExportHarness) -> Path:
    """Files of some days and tenants, with duplicates, and one that is older than some columns."""
    for tenant in TENANTS:
        for day in range(2):
            name = f"{tenant}-{day}"
            record = of_tenant(tenant, exported(name, NOON + day * DAY))
            harness.log.append("decisions", [record, record])
            rating = {"id": "f1", "unix_ms": int(NOON * 1000), "decision": name, "tenant": tenant, "rating": day / 4}
            harness.log.append("feedback", [json.dumps(rating)] * 2)
    harness.log.close()
    harness.export()
    newest = files_in(harness.files / "decisions")[0]
    older = pq.ParquetFile(newest).read().drop_columns(["cost_usd", "seconds", "engine"])
    older = older.set_column(older.schema.get_field_index("id"), "id", pa.array(["older"] * len(older)))
    first = newest.with_name("a-00000001-00000001.parquet")
    pq.write_table(older, first)
    return harness.files


@pytest.mark.parametrize("run", [run_clickhouse, run_bigquery])
def test_the_queries_of_the_page_give_the_same_rows_as_in_duckdb(
    run: Callable[[Path], list[Rows]], records: Path
) -> None:
    days, paths, ratings = run_duckdb(records)
    assert [row[:2] for row in days] == [
        (f"2027-01-{15 + day}", tenant or "_none")
        for day in range(2)
        for tenant in sorted(TENANTS, key=lambda t: t or "_")
    ]
    assert [row[3] for row in days].count("1") == len(days) - 1  # the older file's record is in one of them
    assert (len(paths), len(ratings)) == (1, 1)
    assert run(records) == [days, paths, ratings]


@pytest.mark.parametrize("table", ["decisions", "feedback"])
def test_bigquery_knows_every_column(table: str) -> None:
    (columns,) = (
        external["columns"]
        for statement in statements("bigquery.sql")
        if (external := EXTERNAL_TABLE.fullmatch(statement)) and f"/{table}/" in external["files"]
    )
    expected = [f"{field.name} {BIGQUERY_TYPES.get(field.type, 'TIMESTAMP')}" for field in SCHEMAS[table]]
    assert [column.strip() for column in columns.split(",")] == expected
