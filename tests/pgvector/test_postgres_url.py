"""The URLs of PostgreSQL that are understood, and the sentences about others."""

import pytest
from pointsman_retriever.postgres_client import PostgresAddress, parse_url
from pointsman_servicekit.errors import FailedPrecondition


def test_a_url_names_server_user_and_database() -> None:
    found = parse_url("postgresql://a%40b@db:6432/docs?sslmode=verify-full")
    assert found == PostgresAddress("db", 6432, "a@b", "docs", is_encrypted=True)


def test_port_user_and_tls_have_defaults() -> None:
    assert parse_url("postgresql://[::1]") == PostgresAddress("::1", 5432, "postgres", None, is_encrypted=False)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_each_mode_that_asks_for_tls_gets_it(mode: str) -> None:
    assert parse_url(f"postgresql://db/docs?sslmode={mode}").is_encrypted


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://db/docs", "names no server"),
        ("postgresql:///docs", "names no server"),
        ("postgresql://db:port/docs", "a host or a port that is not valid"),
        ("postgresql://user:secret@db/docs", "contains a password"),
        ("postgresql://db/docs?sslmode=prefer", "sslmode=prefer"),
        ("postgresql://db/docs?sslmode=verify_full", "sslmode=verify_full"),
        ("postgresql://db/docs?sslrootcert=ca.pem", "'sslrootcert', which is not supported"),
    ],
)
def test_a_url_that_would_be_misunderstood_is_refused_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(FailedPrecondition, match="write postgresql://USER@HOST") as refused:
        parse_url(url)
    assert problem in refused.value.message
    assert refused.value.code == "store_unusable"
    assert "secret" not in refused.value.message
