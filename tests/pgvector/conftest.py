"""A real PostgreSQL with pgvector: the one of POINTSMAN_TEST_POSTGRES_PORT, or else one of these tests' own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pg8000.dbapi as postgres
import pytest

from tests.pgvector.relay import Relay
from tests.ports import free_port
from tests.retriever.conftest import refusal, start

__all__ = ["refusal", "start"]  # fixtures

PROGRAMS = Path("/usr/lib/postgresql/17/bin")
EXTENSION = Path("/usr/share/postgresql/17/extension/vector.control")

Run = Callable[..., None]
"""Executes statements, as the superuser."""


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """Yields the server's port; skips the tests if PostgreSQL or pgvector is not installed."""
    if given := os.environ.get("POINTSMAN_TEST_POSTGRES_PORT"):
        yield int(given)
        return
    if not PROGRAMS.exists() or not EXTENSION.exists():
        pytest.skip("PostgreSQL with pgvector is not installed: apt-get install postgresql-17-pgvector")
    with tempfile.TemporaryDirectory(prefix="pointsman-postgres-") as folder:
        as_user: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(folder, "postgres")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data, number = f"{folder}/data", free_port()
        options = f"-p {number} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

        def call(program: str, *arguments: str) -> None:
            subprocess.run(
                [*as_user, PROGRAMS / program, "-D", data, *arguments],
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
            )

        call("initdb", "-A", "trust", "-U", "postgres")
        call("pg_ctl", "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield number
        finally:
            call("pg_ctl", "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def url(port: int) -> str:
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


@pytest.fixture(scope="session")
def run(port: int) -> Run:
    def run(*statements: str) -> None:
        connection = postgres.connect(user="postgres", host="127.0.0.1", port=port, database="postgres")
        connection.autocommit = True
        for statement in statements:
            connection.cursor().execute(statement)
        connection.close()

    run("CREATE EXTENSION IF NOT EXISTS vector")
    return run


@pytest.fixture
def relay(port: int) -> Iterator[Relay]:
    """Yields a relay to the server."""
    opened = Relay(port)
    yield opened
    opened.close()
