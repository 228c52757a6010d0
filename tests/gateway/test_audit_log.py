"""Every administrative change leaves one entry in the audit log: who, from where, what was there before and after."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pointsman_gateway.request_log.config_audit import ConfigAudit
from pointsman_gateway.request_log.config_values import MAX_VALUES_PER_FILE, changes_between, file_values
from pointsman_lora_server.registry.schema import RedisKeys
from pointsman_servicekit.audit.audit_log import ADAPTER_CHANGES, AUDIT, CONFIGURATION, AuditLog
from pointsman_servicekit.audit.entries import FURTHER, MAX_VALUES, Actor, AuditedChange, AuditEntry, from_json, to_json
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys.administration import Administration
from pointsman_servicekit.keys.key_store import NewKey
from pointsman_servicekit.keys.records import KeyScope, Limits

from tests.gateway.doubles.valkey import Valkey
from tests.gateway.test_values_in_redis import NO_JSON

ALICE = Actor("alice", "10.0.0.7 (admin API)")
MODELS = """\
models:
  mini: {context_window: 8192, usd_per_million_tokens: {prompt: 2, cached: 1, completion: 4}}
aliases: {gpt: mini}
"""


@asynccontextmanager
async def redis_at(valkey: Valkey) -> AsyncIterator[BoundedRedis]:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        yield redis


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[BoundedRedis]:
    async with redis_at(valkey) as redis:
        yield redis


@pytest.fixture
def admin(redis: BoundedRedis) -> Administration:
    return Administration(redis, actor=ALICE)


async def recorded(redis: BoundedRedis, *kinds: str) -> list[AuditEntry]:
    """The entries, the oldest first."""
    return (await AuditLog(redis).read(3600, kinds))[::-1]


def shown(entry: AuditEntry) -> tuple[Any, ...]:
    one = entry.changed
    return (one.kind, one.change, one.subject, one.before, one.after)


# -- keys and tenants


async def test_each_change_of_a_key_has_its_values_before_and_after(redis: BoundedRedis, admin: Administration) -> None:
    scope = KeyScope(tasks=("triage",))
    key = (await admin.keys.create(NewKey("acme", "desk", scope, Limits(dollars_per_day=2.0)))).record
    await admin.change_limits({"dollars_per_day": 5.0, "requests_per_minute": 9}, key=key.id)
    await admin.change_limits({"requests_per_minute": None}, key=key.id)
    revoked = await admin.keys.revoke(key.prefix)
    await admin.keys.revoke(key.prefix)  # which changes nothing
    entries = await recorded(redis)
    subject = f"key {key.id} of acme"
    created, *others = map(shown, entries)
    assert created[:4] == ("key", "created", subject, {})
    assert created[4] == {
        "id": key.id, "prefix": key.prefix, "tenant": "acme", "name": "desk", "dollars_per_day": 2.0,
        "tasks": ["triage"], "created": key.created,
    }  # fmt: skip
    assert others == [
        ("budget", "limited", subject, {"dollars_per_day": 2.0, "requests_per_minute": None},
         {"dollars_per_day": 5.0, "requests_per_minute": 9}),
        ("limit", "limited", subject, {"requests_per_minute": 9}, {"requests_per_minute": None}),
        ("key", "revoked", subject, {"revoked": None}, {"revoked": revoked.revoked}),
    ]  # fmt: skip
    assert {entry.actor for entry in entries} == {ALICE}


async def test_a_key_with_rights_is_a_change_of_roles(redis: BoundedRedis, admin: Administration) -> None:
    key = (await admin.keys.create(NewKey("ops", admin=True))).record
    await admin.keys.create(NewKey("acme"))
    await admin.keys.revoke(key.id)
    created, revoked = await recorded(redis, "role")
    assert (created.changed.change, created.changed.after["admin"]) == ("created", True)
    assert revoked.changed.change == "revoked"


async def test_changes_of_tenants_are_recorded(redis: BoundedRedis, admin: Administration) -> None:
    await admin.change_limits({"dollars_per_month": 100.0}, tenant="acme")
    await admin.keys.consent("acme", ["triage"])
    await admin.change_limits({}, tenant="empty")
    assert [shown(one) for one in await recorded(redis)] == [
        ("budget", "limited", "tenant acme", {}, {"dollars_per_month": 100.0}),
        ("consent", "consented", "tenant acme", {"learning": []}, {"learning": ["triage"]}),
        ("key", "created", "tenant empty", {}, {}),
    ]


async def test_neither_a_secret_nor_its_digest_is_recorded(redis: BoundedRedis, admin: Administration) -> None:
    issued = await admin.keys.create(NewKey("acme", admin=True))
    await admin.keys.revoke(issued.record.id)
    text = json.dumps(await redis.client.xrange(AUDIT))
    assert issued.record.digest not in text
    assert issued.credential.text.split("_")[2] not in text


async def test_a_change_that_is_repeated_is_recorded_once(redis: BoundedRedis, admin: Administration) -> None:
    key = (await admin.keys.create(NewKey("acme"))).record
    after = key.to_json().replace('"priority":0', '"priority":5')
    for _ in range(2):  # as after a lost answer
        changed = AuditedChange("key", "changed", "x")
        assert await admin.keys._put("{pointsman}:keys", key.digest, key.to_json(), after, changed)
    assert [one.changed.change for one in await recorded(redis)] == ["created", "changed"]


# -- the configuration


class Gateway:
    """A gateway's audit of its configuration, whose files a test changes."""

    def __init__(self, redis: BoundedRedis, name: str, files: Mapping[str, str], revision: str = "r1") -> None:
        self.files, self.revision = files, revision
        self.audit = ConfigAudit(AuditLog(redis), lambda: (self.revision, self.files), lambda: Actor("owner", name))


async def test_a_changed_configuration_is_recorded_by_the_first_gateway_that_has_it(redis: BoundedRedis) -> None:
    first, second = (Gateway(redis, name, {"models.yaml": MODELS}) for name in ("one", "two"))
    for gateway in (first, second):
        await gateway.audit.record()
    changed = MODELS.replace("prompt: 2", "prompt: 3").replace("8192", "9000").replace("gpt: mini", "gpt: maxi")
    for gateway in (first, second, first):
        gateway.files, gateway.revision = {"models.yaml": changed}, "r2"
        await gateway.audit.record()
    seen, *changes = await recorded(redis)
    assert shown(seen) == ("configuration", "first seen", "configuration", {}, {"revision": "r1"})
    assert sorted(map(shown, changes), key=str) == [
        ("alias", "changed", "models.yaml", {"revision": "r1", "aliases.gpt": "mini"},
         {"revision": "r2", "aliases.gpt": "maxi"}),
        ("configuration", "changed", "models.yaml", {"revision": "r1", "models.mini.context_window": 8192},
         {"revision": "r2", "models.mini.context_window": 9000}),
        ("price", "changed", "models.yaml", {"revision": "r1", "models.mini.usd_per_million_tokens.prompt": 2},
         {"revision": "r2", "models.mini.usd_per_million_tokens.prompt": 3}),
    ]  # fmt: skip
    assert {one.actor for one in changes} == {Actor("owner", "one")}


async def test_a_change_while_no_gateway_runs_is_recorded_at_the_next_start(redis: BoundedRedis) -> None:
    await Gateway(redis, "one", {"models.yaml": MODELS}).audit.record()
    later = {"models.yaml": MODELS, "access.yaml": "single_sign_on: {grants: [{tenant: acme, admin: true}]}"}
    await Gateway(redis, "one", later, "r2").audit.record()
    _, change = await recorded(redis)
    assert shown(change) == (
        "role", "added", "access.yaml", {"revision": "r1"},
        {"revision": "r2", "single_sign_on.grants.0.tenant": "acme", "single_sign_on.grants.0.admin": True},
    )  # fmt: skip


async def test_a_change_while_redis_is_unavailable_is_recorded_later(valkey: Valkey, redis: BoundedRedis) -> None:
    gateway = Gateway(redis, "one", {"models.yaml": MODELS})
    await gateway.audit.record()
    valkey.kill()
    gateway.files, gateway.revision = {"models.yaml": MODELS.replace("8192", "1")}, "r2"
    with pytest.raises(Unavailable):
        await gateway.audit.record()
    await valkey.start()
    async with redis_at(valkey) as again:
        gateway.audit = Gateway(again, "one", gateway.files, "r2").audit
        await gateway.audit.record()
        assert [one.changed.after["revision"] for one in await recorded(again)] == ["r1", "r2"]


async def test_a_configuration_that_cannot_be_compared_still_has_its_revisions(redis: BoundedRedis) -> None:
    await Gateway(redis, "one", {"models.yaml": MODELS}).audit.record()
    await redis.client.hset(CONFIGURATION, "values", "[5")
    await Gateway(redis, "one", {}, "r2").audit.record()
    assert shown((await recorded(redis))[-1])[3:] == ({"revision": "r1"}, {"revision": "r2"})


def test_prompts_and_examples_are_compared_by_their_digests() -> None:
    before, after = ({"prompts/a.txt": text, "tasks/t/examples.yaml": "- my name"} for text in ("Be kind", "Be brief"))
    (change,) = changes_between(file_values(before), file_values(after))
    assert (change.kind, change.change, change.subject) == ("configuration", "changed", "prompts/a.txt")
    assert str(change.before["text"]).startswith("sha256 ")
    assert "Be" not in to_json(ALICE, change)
    assert "name" not in json.dumps(file_values(after))


@pytest.mark.parametrize("text", ["{", "[" * 5000, "", "null", "a: 1\n" * 3, "- 1\n" * (MAX_VALUES_PER_FILE + 1)])
def test_any_text_of_a_file_can_be_compared(text: str) -> None:
    values = file_values({"models.yaml": text})
    assert changes_between(values, json.loads(json.dumps(values))) == []
    assert changes_between({}, values)[0].change == "added"


# -- reading


async def test_the_changes_of_adapters_are_read_from_the_history_of_lora_servers(redis: BoundedRedis) -> None:
    key = RedisKeys("base").changes
    assert key == ADAPTER_CHANGES.replace("*", "base")
    for kind, author in (("ready", ""), ("alias", "bob (cli)"), ("settled", "")):
        fields = {"kind": kind, "subject": "triage@prod", "before": "triage@1", "after": "triage@2",
                  "author": author, "reason": "better"}  # fmt: skip
        await redis.client.xadd(key, fields)
    (entry,) = await recorded(redis, "alias")
    assert shown(entry) == ("alias", "alias", "triage@prod", {"is": "triage@1"}, {"is": "triage@2"})
    assert (entry.actor, entry.reason) == (Actor("bob (cli)", "lora-server of base"), "better")
    assert await recorded(redis, "price") == []


async def test_the_newest_entries_of_a_time_are_read(redis: BoundedRedis, admin: Administration) -> None:
    for number in range(5):
        await admin.change_limits({"requests_per_minute": number + 1}, tenant="acme")
    newest = await admin.audit.read(3600, limit=2)
    assert [one.changed.after["requests_per_minute"] for one in newest] == [5, 4]
    later = AuditLog(redis, lambda: newest[0].unix_ms / 1000 + 7200)
    assert await later.read(3600) == []
    assert len(await later.read(3 * 3600)) == 5


@pytest.mark.parametrize("text", [*NO_JSON, '{"v":2}', '{"v":1,"who":5}'])
async def test_an_entry_that_cannot_be_read_is_left_out(
    redis: BoundedRedis, admin: Administration, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.client.xadd(AUDIT, {"entry": text})
    await admin.change_limits({"requests_per_minute": 1}, tenant="acme")
    assert len(await recorded(redis)) == 1
    assert "cannot be read" in caplog.text


def test_long_values_are_cut() -> None:
    long = {"names": ["x" * 100] * 10} | {f"v{number}": 1 for number in range(MAX_VALUES + 5)}
    read = from_json(to_json(ALICE, AuditedChange("key", "created", "k", {}, long)), 5)
    assert len(read.changed.after) == MAX_VALUES + 1
    assert read.changed.after[FURTHER] == 6
    assert read.changed.after["names"].endswith(FURTHER)
