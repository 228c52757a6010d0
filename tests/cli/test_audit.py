"""`pointsman audit` with a real Valkey: it shows what `pointsman keys` has changed, and who it was."""

import asyncio
import getpass
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


def test_a_wrong_option_is_named_with_what_is_right(cli: Cli, url: str, tmp_path: Path) -> None:
    at = ("--redis", url, "--data-dir", tmp_path / "home")
    assert "--kind is 'weather'; it should be one of: key, role, budget" in cli("audit", "--kind", "weather", *at).err
    assert "--since is 'long ago'; use an age (90m" in cli("audit", "--since", "long ago", *at).err
