"""Keeps the list of a configuration's engines and the state of each engine up to date. Groups of engines may grow and
shrink.

After a reload of the configuration, an engine keeps its state if its name and its `EngineConfig.identity` (the settings
that identify it) have not changed.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pointsman_servicekit.grpc_client import Interceptors, Token
from pointsman_servicekit.kubernetes import SERVICE_ACCOUNT
from pointsman_servicekit.tls import ClientTls

from pointsman_gateway.config.engine_config import EngineConfig
from pointsman_gateway.config.engine_groups import DnsName, GroupName
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.providers import auth_header
from pointsman_gateway.engines.adapter_discovery import AdapterDiscovery
from pointsman_gateway.engines.aliases import Aliases
from pointsman_gateway.engines.connection_pool import origin_of
from pointsman_gateway.engines.dns_groups import Resolver, watch_dns
from pointsman_gateway.engines.engine_group import EngineGroup
from pointsman_gateway.engines.engine_settings import engine_settings
from pointsman_gateway.engines.engine_state import Engine, EngineState
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.http_post import PooledPoster
from pointsman_gateway.engines.inference_pools import watch_pool
from pointsman_gateway.engines.lora_server import watch_engine
from pointsman_gateway.engines.metrics import EngineMetrics

POLL_INTERVAL_SECONDS = 0.02

_Key = tuple[str, EngineConfig]
"""The name and the `EngineConfig.identity` of an engine or a group."""


def to_engine(name: str, config: EngineConfig) -> Engine:
    """Makes the engine called `name` from its configuration.

    An engine whose state is watched (`EngineConfig.is_watched`) is not ready until its first report. Raises ConfigError
    if the URL is invalid or the environment lacks the API key.
    """
    what = f"engine '{name}'"
    header = auth_header(what, config.preset, config.api_key_env)
    api = config.preset.api(config.upstream_name, config.url_parts, header)
    url, adapters = config.base_url, config.named_adapters
    if url and not config.group:
        check_url(what, url)
    return Engine(
        name,
        config.model,
        url,
        ready=bool(url) and not config.is_watched,
        resident=adapters,
        api=api,
        upstream="" if config.upstream_name == config.model else config.upstream_name,
        has_fixed_adapters=bool(adapters),
    )


def check_url(what: str, url: str) -> None:
    """Raises ConfigError if `url` is not an http(s) URL.

    `what` names the owner of the URL in the error message, such as "engine 'gpu-1'".
    """
    try:
        origin_of(url)
    except ValueError as error:
        raise ConfigError(f"models.yaml: {what}: {error}") from error


class TrackedEngines(Protocol):
    """Interface to one engine, or one group of engines, whose state background tasks keep up to date."""

    @property
    def states(self) -> Sequence[EngineState]:
        """Returns the state of the engine as a list of one, or the states of the present engines of the group."""
        ...

    def stop(self) -> None:
        """Ends the background tasks of the engine or the group; its states are not updated any more."""
        ...


@dataclass(frozen=True, slots=True)
class _TrackedEngine:
    """One engine whose state background tasks keep up to date.

    Implements `TrackedEngines`, and `TrackedMember` for engines of a group.
    """

    state: EngineState
    task: asyncio.Task[None] | None
    """The background task that reads the state from the engine's lora-server or its list of models; None if the engine
    has neither."""
    aliases: Aliases | None = None
    """The table of aliases, for a member of a group; `stop` removes the engine's reports from it, because another
    member may get the engine's name later. None for other engines."""

    @property
    def states(self) -> Sequence[EngineState]:
        return [self.state]

    def stop(self) -> None:
        if self.task:
            self.task.cancel()
        if self.aliases:
            self.aliases.forget(self.state.engine.name)


@dataclass(frozen=True, slots=True)
class _TrackedGroup:
    """A group of engines whose members and states background tasks keep up to date; implements `TrackedEngines`."""

    group: EngineGroup
    task: asyncio.Task[None]

    @property
    def states(self) -> Sequence[EngineState]:
        return self.group.states

    def stop(self) -> None:
        self.task.cancel()
        self.group.stop()


class EngineDiscovery:
    """Runs background tasks that keep the states of engines, and the members of groups of engines, up to date.

    One instance serves the active configuration and, during a reload, the next one. It is an async context manager: at
    its end, all background tasks are stopped.
    """

    def __init__(
        self,
        metrics: EngineMetrics,
        *,
        resolver: Resolver,
        http: PooledPoster,
        poll_seconds: float,
        service_account: Path = SERVICE_ACCOUNT,
        tls: ClientTls | None = None,
        interceptors: Interceptors = (),
        token: Token | None = None,
    ) -> None:
        """Takes the clients with which engines and groups of engines are observed.

        `http` reads engines' lists of models every `poll_seconds` seconds. `resolver` looks up groups in DNS; the
        credentials in the folder `service_account` serve to look up groups in Kubernetes. `tls`, `interceptors` and
        `token` are for the connections to lora-servers.
        """
        self.aliases = Aliases()
        self._metrics = metrics
        self._resolver = resolver
        self._service_account = service_account
        self._http, self._poll_seconds = http, poll_seconds
        self._tls = tls
        self._interceptors = interceptors
        self._token = token
        self._tracked: dict[_Key, TrackedEngines] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._active: tuple[Engines, Sequence[_Key]] | None = None

    async def engines(self, models: ModelsFile, wait_seconds: float = 0.0) -> Engines:
        """Returns the engines of a configuration, and starts background tasks for engines that have none yet.

        New engines with `EngineConfig.is_watched` get no requests before their first report, so the method waits up to
        `wait_seconds` for their reports. Raises ConfigError if a URL is invalid or an API key is missing.
        """
        keys = _keys(models.engines)
        added = {key: to_engine(*key) for key in keys if key not in self._tracked}
        for key, engine in added.items():
            self._tracked[key] = self._track(key, engine)
        reporting = [self._tracked[key] for key in added if key[1].is_watched]
        if reporting and wait_seconds:
            await _wait_for_reports(reporting, wait_seconds)
        return Engines(self._states(keys), engine_settings(models), self.aliases)

    def activate(self, engines: Engines, models: ModelsFile) -> None:
        """Makes `engines` the engines of the active configuration, and stops the background tasks of all other engines.

        A request that still uses one of the other engines sees that engine's last state.
        """
        keys = _keys(models.engines)
        for key in [key for key in self._tracked if key not in keys]:
            name, config = key
            self._tracked.pop(key).stop()
            if config.lora_server and (name not in models.engines or not models.engines[name].lora_server):
                self.aliases.forget(name)
        self._active = engines, keys
        engines.set_states(self._states(keys))

    def _states(self, keys: Sequence[_Key]) -> list[EngineState]:
        return [state for key in keys for state in self._tracked[key].states]

    def _update_active(self) -> None:
        if self._active:
            engines, keys = self._active
            engines.set_states(self._states(keys))

    def _track(self, key: _Key, engine: Engine) -> TrackedEngines:
        _, config = key
        if config.group:
            return self._track_group(engine, config, config.group)
        state = EngineState(engine)
        return _TrackedEngine(state, self._watch(state, config, config.lora_server, self._tls))

    def _track_group(self, engine: Engine, config: EngineConfig, name: GroupName) -> _TrackedGroup:
        tls = self._tls and replace(self._tls, server_name=self._tls.server_name or name.server_name)

        def track(member: Engine) -> _TrackedEngine:
            state = EngineState(replace(member, ready=member.ready and not config.discovers_adapters))
            return _TrackedEngine(state, self._watch(state, config, member.endpoint, tls), self.aliases)

        path = name.path if isinstance(name, DnsName) else ""
        group = EngineGroup(engine, config.endpoint_limit, track, self._update_active, self._metrics, path)
        watching = (
            watch_dns(group, name, self._resolver)
            if isinstance(name, DnsName)
            else watch_pool(group, name, self._service_account)
        )
        return _TrackedGroup(group, self._start(watching, f"look up {engine.name}"))

    def _watch(
        self, state: EngineState, config: EngineConfig, address: str, tls: ClientTls | None
    ) -> asyncio.Task[None] | None:
        """Starts the task that keeps an engine's state up to date, from its lora-server at `address` or its list of
        models.

        Returns the task; None if the engine has no lora-server, and its adapters are not discovered.
        """
        name, engines = state.engine.name, Engines([state], aliases=self.aliases)
        if config.lora_server:
            watching = watch_engine(
                engines,
                name,
                address=address,
                metrics=self._metrics,
                tls=tls,
                interceptors=self._interceptors,
                token=self._token,
            )
        elif config.discovers_adapters:
            watching = AdapterDiscovery(engines, name, self._http, self._metrics, self._poll_seconds).watch()
        else:
            return None
        return self._start(watching, f"watch {name}")

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def __aenter__(self) -> "EngineDiscovery":
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _keys(engines: Mapping[str, EngineConfig]) -> list[_Key]:
    return [(name, config.identity) for name, config in engines.items()]


async def _wait_for_reports(tracked: Sequence[TrackedEngines], wait_seconds: float) -> None:
    deadline = asyncio.get_running_loop().time() + wait_seconds

    def is_any_missing() -> bool:
        return any(not state.engine.has_reported for one in tracked for state in one.states)

    while is_any_missing() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  # a state is a value, no event
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
