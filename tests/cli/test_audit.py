"""`pointsman audit` with a real Valkey: it shows what `pointsman keys` has changed, and who it was."""

import asyncio
import getpass
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.request_log.audit_export import AuditExport
from pointsman_servicekit.audit.audit_log import EXPORTED, AuditLog
from pointsman_servicekit.bounded_redis import open_redis

from tests.gateway.doubles.exports import ExportHarness
from tests.gateway.doubles.valkey import Valkey

Cli = Callable[..., Any]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    valkey = Valkey(tmp_path / "valkey")
    asyncio.run(valkey.start())
    yield valkey.url
    valkey.kill()


def test_changes_are_listed_with_who_and_where(cli: Cli, url: str, tmp_path: Path) -> None:
    at = ("--redis", url, "--data-dir", tmp_path / "home")
    assert cli("audit", *at).out == "no changes in the last 7d\n"
    assert cli("keys", "limit", "--tenant", "acme", "--dollars-per-day", "5", *at).code == 0
    assert cli("keys", "limit", "--tenant", "acme", "--dollars-per-day", "7", *at).code == 0
    assert cli("keys", "create", "--tenant", "ops", "--admin", *at).code == 0
    (role,) = json.loads(cli("audit", "--json", "--kind", "role", *at).out)
    assert (role["who"], role["where"]) == (getpass.getuser(), f"{socket.gethostname()} (pointsman keys)")
    assert role["after"]["admin"] is True
    header, newest, *_ = cli("audit", "--kind", "budget", *at).out.splitlines()
    assert header.split() == ["time", "(UTC)", "who", "where", "kind", "change", "what", "before", "after"]
    assert newest.endswith("budget  limited  tenant acme  dollars_per_day: 5.0  dollars_per_day: 7.0")


def test_exported_changes_are_listed_as_those_in_redis(cli: Cli, url: str, tmp_path: Path) -> None:
    at = ("--redis", url, "--data-dir", tmp_path / "home")
    for dollars in ("5", "7"):
        assert cli("keys", "limit", "--tenant", "acme", "--dollars-per-day", dollars, *at).code == 0
    assert cli("keys", "create", "--tenant", "ops", "--admin", *at).code == 0
    harness = ExportHarness(tmp_path)

    async def copy() -> None:
        async with open_redis(url, lambda up: None, 5.0) as redis:
            await AuditExport(AuditLog(redis), harness.log).copy()
            await redis.client.delete(EXPORTED)  # so that all are exported twice
            await AuditExport(AuditLog(redis), harness.log).copy()

    asyncio.run(copy())
    harness.log.close()
    assert harness.export() == 6
    exported = ("--from", harness.files, "--data-dir", tmp_path / "home")
    for options in ((), ("--kind", "budget"), ("--kind", "budget", "--kind", "role", "--limit", "1"), ("--json",)):
        outcome = cli("audit", *options, *exported)
        assert outcome.out == cli("audit", *options, *at).out, outcome.err
        assert outcome.out
    assert cli("audit", "--kind", "price", *exported).out == "no changes in the last 7d\n"


def test_what_is_wrong_with_exported_changes_is_said(cli: Cli, url: str, tmp_path: Path) -> None:
    assert "there are no exported administrative changes in" in cli("audit", "--from", tmp_path).err
    assert "give --redis or --from, not both" in cli("audit", "--from", tmp_path, "--redis", url).err


def test_a_wrong_option_is_named_with_what_is_right(cli: Cli, url: str, tmp_path: Path) -> None:
    at = ("--redis", url, "--data-dir", tmp_path / "home")
    assert "--kind is 'weather'; it should be one of: key, role, budget" in cli("audit", "--kind", "weather", *at).err
    assert "--since is 'long ago'; use an age (90m" in cli("audit", "--since", "long ago", *at).err
