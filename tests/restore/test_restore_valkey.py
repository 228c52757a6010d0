"""restore-valkey.sh with the real Valkey and the chart's settings."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pointsman_servicekit.redis_clients import open_client

from deploy.helm.render import CHART
from tests.restore.installation import ChartValkey, chart_valkey, programs_in

SCRIPT = CHART / "files" / "valkey" / "restore-valkey.sh"
KEYS = {f"k{number}": f"v{number}" for number in range(100)}


@pytest.fixture
async def valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChartValkey]:
    async with chart_valkey(tmp_path / "valkey") as valkey:
        world = {"valkey_port": valkey.port, "replace": {}, "objects": [], "socket": ""}
        (tmp_path / "world.json").write_text(json.dumps(world))
        for name, value in {**programs_in(tmp_path), "RESTORE_WORLD": str(tmp_path / "world.json")}.items():
            monkeypatch.setenv(name, value)
        assert isinstance(valkey, ChartValkey)
        yield valkey


async def keys_in(valkey: ChartValkey) -> dict[str, str]:
    async with open_client(valkey.url) as opened:
        return {name: await opened.client.get(name) for name in await opened.client.keys("*")}


async def set_keys(valkey: ChartValkey, keys: dict[str, str]) -> None:
    async with open_client(valkey.url) as opened:
        await opened.client.flushall()
        await opened.client.mset(keys)


def dump() -> bytes:
    return subprocess.run(["valkey-cli", "--rdb", "-"], check=True, stdout=subprocess.PIPE, timeout=60).stdout


def restore(data: bytes) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["sh", str(SCRIPT)], input=data, capture_output=True, check=False, timeout=60)


async def test_the_keys_of_a_dump_replace_what_valkey_has_and_outlast_restarts(valkey: ChartValkey) -> None:
    await set_keys(valkey, KEYS)
    data = dump()
    await set_keys(valkey, {"other": "1"})
    restored = restore(data)
    assert restored.returncode == 0, restored.stderr
    await set_keys(valkey, {"written": "before the restart"})
    for _ in range(2):
        valkey.stop()
        await valkey.start()
        assert await keys_in(valkey) == KEYS
    assert (valkey.folder / "before-restore").is_dir()


async def test_an_incomplete_dump_changes_nothing(valkey: ChartValkey) -> None:
    await set_keys(valkey, KEYS)
    data = dump()
    for part in (b"", data[: len(data) // 2], data.replace(b"v55", b"v56")):
        refused = restore(part)
        assert (refused.returncode, b"not a complete RDB file" in refused.stderr) == (1, True)
    valkey.kill()
    await valkey.start()
    assert await keys_in(valkey) == KEYS
    assert not {"restored", "before-restore"} & set(os.listdir(valkey.folder))


async def test_a_dump_in_the_folder_alone_is_ignored(valkey: ChartValkey) -> None:
    """Shows why the script is needed: with `appendonly yes`, Valkey does not read dump.rdb."""
    await set_keys(valkey, KEYS)
    data = dump()
    valkey.kill()
    (valkey.folder / "appendonlydir").rename(valkey.folder / "lost")
    (valkey.folder / "dump.rdb").write_bytes(data)
    await valkey.start()
    assert await keys_in(valkey) == {}
