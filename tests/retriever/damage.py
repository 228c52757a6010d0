"""Changes a collection's file without the retriever's knowledge."""

import sqlite3
from contextlib import closing
from pathlib import Path


def tamper(file: Path, *statements: str) -> None:
    """Runs SQL statements on a collection's file."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
