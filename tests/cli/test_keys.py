"""`pointsman keys` with a real Valkey: a key is shown once, and its usage is exact."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.keys.tables import limits_text
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import Limits, digest_of, is_well_formed
from pointsman_servicekit.keys.redis_layout import Window, window_at
from redis import Redis

from tests.gateway.doubles.valkey import Valkey

Keys = Callable[..., Any]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    valkey = Valkey(tmp_path / "valkey")
    asyncio.run(valkey.start())
    yield valkey
    valkey.kill()


@pytest.fixture
def redis(valkey: Valkey) -> Iterator[Any]:
    with Redis.from_url(valkey.url, decode_responses=True) as redis:
        yield redis


@pytest.fixture
def keys(cli: Callable[..., Any], valkey: Valkey, tmp_path: Path) -> Keys:
    return lambda *arguments: cli("keys", *arguments, "--redis", valkey.url, "--data-dir", tmp_path / "home")


def listed(keys: Keys, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(keys("list", "--json", *arguments).out)
    return found


def test_a_key_is_printed_once_and_can_be_found_by_its_prefix(keys: Keys, redis: Any) -> None:
    made = keys("create", "help desk", "--tenant", "acme")
    key = made.out.strip()
    assert (made.code, is_well_formed(key)) == (0, True)
    assert "the only time" in made.err
    shown = keys("list")
    assert key.split("_")[1] in shown.out
    assert "help desk" in shown.out
    assert key.split("_")[2] not in shown.out + str(redis.hgetall(redis_layout.KEYS))
    assert redis.hexists(redis_layout.KEYS, digest_of(key))


def test_a_key_from_a_file_is_created_once_and_not_printed(keys: Keys, redis: Any, tmp_path: Path) -> None:
    file, key = tmp_path / "key", "pm_aB3dE6gH_0123456789abcdef0123456789ABCDEF"
    file.write_text(f"{key}\n")
    for _ in range(2):
        made = keys("create", "first", "--tenant", "acme", "--key-file", file)
        assert (made.code, key in made.out + made.err) == (0, False)
    assert [record["prefix"] for record in listed(keys)] == ["aB3dE6gH"]
    assert redis.hexists(redis_layout.KEYS, digest_of(key))


@pytest.mark.parametrize(("text", "reason"), [("hunter2", "a key is pm_, 8 letters or digits"), (None, "No such file")])
def test_a_file_without_a_key_is_rejected(keys: Keys, tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "key").write_text(text)
    refused = keys("create", "--tenant", "acme", "--key-file", tmp_path / "key")
    assert refused.code == 2
    assert reason in refused.err


def test_only_a_key_created_as_operator_key_is_one(keys: Keys) -> None:
    keys("create", "plain", "--tenant", "acme")
    keys("create", "for moves", "--tenant", "acme", "--operator")
    assert {record["name"]: record["operator"] for record in listed(keys)} == {"plain": False, "for moves": True}
    rows = keys("list").out.splitlines()
    assert ["operator" in row for row in rows if "acme" in row] == [False, True]


def test_a_key_has_the_given_limits_scope_and_expiry(keys: Keys) -> None:
    made = keys(
        "create", "--tenant", "acme", "--task", "triage", "--task", "chat", "--adapter", "triage", "--path", "p",
        "--collection", "handbook", "--requests-per-minute", 60, "--tokens-per-minute", 9000, "--max-concurrency", 5,
        "--dollars-per-day", 2.5, "--dollars-per-month", 40, "--priority", 3, "--expires", "30d", "--json",
    )  # fmt: skip
    record = json.loads(made.out)
    assert is_well_formed(record.pop("key"))
    assert record["scope"] == {
        "tasks": ["triage", "chat"], "paths": ["p"], "adapters": ["triage"], "collections": ["handbook"],
        "embeddings": None, "rerankers": None,
    }  # fmt: skip
    assert record["limits"] == {
        "requests_per_minute": 60, "tokens_per_minute": 9000, "concurrent_streams": 5,
        "dollars_per_day": 2.5, "dollars_per_month": 40.0,
    }  # fmt: skip
    assert record["expires"] - time.time() == pytest.approx(30 * 86400, abs=120)
    assert (record["state"], record["priority"]) == ("active", 3)
    assert listed(keys) == [record]
    page = keys("list").out
    for part in ("60 req/min", "9000 tok/min", "5 at once", "$2.5/day", "$40/month", "tasks: triage, chat", "triage"):
        assert part in page
    assert listed(keys, "--tenant", "other") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tenant", "Acme Inc"], "the tenant is 'Acme Inc'"),
        (["--tenant", "acme", "--requests-per-minute", "0"], "requests_per_minute is 0"),
        (["--tenant", "acme", "--dollars-per-day", "-1"], "dollars_per_day is -1.0"),
        (["--tenant", "acme", "--dollars-per-day", "nan"], "dollars_per_day is nan"),
        (["--tenant", "acme", "--max-concurrency", "many"], "Invalid value for '--max-concurrency'"),
        (["--tenant", "acme", "--expires", "soon"], "--expires is 'soon'; use an age (90m, 12h, 30d, 8w)"),
        (["--tenant", "acme", "--expires", "2020-01-31"], "which is in the past"),
        (["--tenant", "acme", "--priority", "1000"], "priority is 1000"),
        (["--tenant", "acme", "--task", ""], "tasks must be up to 1000 names of 1 to 100 characters"),
        (["x" * 101, "--tenant", "acme"], "a key's name may have 100 printable characters"),
        ([], "Missing option '--tenant'"),
    ],
)
def test_invalid_values_are_rejected_by_name_and_no_key_is_created(
    keys: Keys, redis: Any, arguments: list[str], message: str
) -> None:
    refused = keys("create", *arguments)
    assert refused.code in (1, 2)
    assert message in refused.err
    assert refused.out == ""
    assert not redis.exists(redis_layout.KEYS)


def test_a_revoked_key_stays_in_the_list_and_gateways_are_notified(keys: Keys, redis: Any) -> None:
    prefix = keys("create", "old", "--tenant", "acme").out.split("_")[1]
    assert redis.get(redis_layout.EPOCH) is None
    for _ in range(2):
        assert keys("revoke", prefix).out == f"{prefix} old of tenant acme is revoked\n"
    assert int(redis.get(redis_layout.EPOCH)) >= 1
    (record,) = listed(keys)
    assert record["state"] == "revoked"
    assert record["revoked"] == pytest.approx(time.time(), abs=120)


def test_an_unknown_prefix_is_named_but_a_complete_key_is_never_printed(keys: Keys) -> None:
    assert "there is no key 'nosuchke'" in keys("revoke", "nosuchke").err
    whole = "pm_nosuchke_" + "s" * 32
    assert "s" * 32 not in keys("revoke", whole).err


def test_limits_of_a_key_and_of_a_tenant_change_one_by_one(keys: Keys, redis: Any) -> None:
    prefix = keys("create", "--tenant", "acme", "--requests-per-minute", 5, "--max-concurrency", 2).out.split("_")[1]
    assert keys("limit", prefix, "--requests-per-minute", 50).out == f"key {prefix}: 50 req/min, 2 at once\n"
    assert keys("limit", prefix, "--max-concurrency", 0).out == f"key {prefix}: 50 req/min\n"
    assert keys("limit", "--tenant", "acme", "--dollars-per-month", 12).out == "tenant acme: $12/month\n"
    assert int(redis.get(redis_layout.EPOCH)) == 3
    assert "give either a key or --tenant" in keys("limit", "--max-concurrency", 3).err
    assert "give a limit to change" in keys("limit", prefix).err


def test_usage_is_shown_by_key_and_by_tenant_with_the_remaining_quota(keys: Keys, redis: Any) -> None:
    made = [
        json.loads(keys("create", name, "--tenant", "acme", "--requests-per-minute", 10, "--json").out)
        for name in ("one", "two")
    ]
    keys("limit", "--tenant", "acme", "--dollars-per-day", 1)
    now = time.time()
    for number, record in enumerate(made, 1):
        for counter, amount in (("requests", 3), ("prompt_tokens", 1000), ("picodollars", 250_000_000_001)):
            redis.hset(redis_layout.USAGE + redis_layout.day_of(now), f"acme:{record['id']}:{counter}", amount * number)
    window = window_at(Window.DAY, int(now * 1000))[0]
    used = {"window": window, "held": 900_000_000, "used": 750_000_000}
    redis.hset(redis_layout.limit_key("acme", redis_layout.WHOLE_TENANT, "dollars_per_day"), mapping=used)

    tenant, one, two = json.loads(keys("usage", "--json").out)
    assert (tenant["key"], one["key"]["name"], two["key"]["name"]) == (None, "one", "two")
    assert (tenant["today"]["requests"], one["today"]["requests"], two["today"]["requests"]) == (9, 3, 6)
    assert tenant["today"]["picodollars"] == tenant["month"]["picodollars"] == 750_000_000_003
    assert tenant["left"] == {"dollars_per_day": 0.25}
    assert one["left"] == {"requests_per_minute": 10}
    page = keys("usage").out
    assert "0.750000" in page
    assert "$0.25/day" in page
    assert json.loads(keys("usage", "--json", "--tenant", "other").out) == []


def test_a_missing_redis_is_reported(cli: Callable[..., Any], tmp_path: Path, valkey: Valkey) -> None:
    refused = cli("keys", "list", "--data-dir", tmp_path).err
    assert "there is no Redis to keep keys in; start `pointsman up FOLDER` here, or name one with --redis" in refused
    assert "no address of Redis" in cli("keys", "list", "--redis", "nowhere", "--data-dir", tmp_path).err
    valkey.kill()
    assert "Redis does not answer" in cli("keys", "list", "--redis", valkey.url, "--data-dir", tmp_path).err


def consents_of(redis: Any, tenant: str) -> Any:
    return json.loads(redis.hget(redis_layout.TENANTS, tenant))["learning"]


def test_a_tenants_consent_can_be_given_and_withdrawn_without_changing_its_limits(keys: Keys, redis: Any) -> None:
    keys("limit", "--tenant", "acme", "--max-concurrency", 5)
    given = keys("consent", "acme", "--task", "triage", "--task", "chat")
    assert (given.code, given.out) == (0, "tenant acme: answers of chat, triage may be learnt from\n")
    assert consents_of(redis, "acme") == ["chat", "triage"]
    assert keys("consent", "acme", "--all").out == "tenant acme: answers of all tasks may be learnt from\n"
    assert keys("consent", "acme", "--withdraw").out == "tenant acme: no answer may be learnt from\n"
    assert consents_of(redis, "acme") == []
    assert json.loads(redis.hget(redis_layout.TENANTS, "acme"))["limits"]["concurrent_streams"] == 5


def test_contradictory_consent_options_are_rejected(keys: Keys) -> None:
    assert keys("consent", "acme").code == keys("consent", "acme", "--all", "--withdraw").code == 2


def test_each_limit_has_a_short_form() -> None:
    texts = {limit.name: limits_text(Limits(**{limit.name: 5})) for limit in fields(Limits)}
    assert [name for name, text in texts.items() if name in text] == []


def test_a_limit_without_a_short_form_is_shown_with_its_name() -> None:
    @dataclass(frozen=True, slots=True)
    class MoreLimits(Limits):
        images_per_minute: int | None = None

    assert limits_text(MoreLimits(images_per_minute=3, requests_per_minute=5)) == "5 req/min, 3 images_per_minute"
