"""Finds the installed Prometheus, and configures it to scrape all services of `pointsman up`."""

import asyncio
import glob
import shutil
from pathlib import Path
from typing import Any

import httpx
import yaml
from pointsman_servicekit.http_client import open_async_client

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.init import installed_path
from pointsman_cli.up.plan import Addresses, Service

PROMETHEUS = "prometheus"
RULES = installed_path("deploy/prometheus/rules")
SCRAPE_EVERY = "5s"
KEEP_FOR, KEEP_AT_MOST = "7d", "1GB"
_READY_SECONDS = 120.0  # it replays its write-ahead log first
_CALL_SECONDS = 2.0
_INTERVAL = 0.1  # seconds between two polls


def find_program() -> Path:
    """Returns the path of Prometheus; raises UsageError with installation instructions if it is not installed."""
    found = shutil.which(PROMETHEUS)
    if found is None:
        raise UsageError(
            "--monitoring needs Prometheus, and no `prometheus` is on the PATH; get it with "
            "`apt-get install prometheus`, `brew install prometheus`, or from https://prometheus.io/download"
        )
    return Path(found).absolute()


def make_service(program: Path, address: str, data_dir: DataDir) -> Service:
    command = (
        str(program),
        f"--config.file={_configuration_file(data_dir)}",
        f"--storage.tsdb.path={_folder(data_dir) / 'data'}",
        f"--storage.tsdb.retention.time={KEEP_FOR}",
        f"--storage.tsdb.retention.size={KEEP_AT_MOST}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
    )
    return Service(PROMETHEUS, command, {}, address, data_dir.log(PROMETHEUS), grace=10)


def write_configuration(data_dir: DataDir, addresses: Addresses, rules: Path = RULES) -> None:
    """Writes a configuration of Prometheus that scrapes each service with an address.

    The configuration has no alert rules if the folder `rules` does not exist. Raises OSError if the file cannot be
    written.
    """
    file = _configuration_file(data_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_configuration(addresses, rules if rules.is_dir() else None), sort_keys=False)
    file.write_text(f"# Written anew by each `pointsman up --monitoring`.\n{text}", encoding="utf-8")


def _configuration(addresses: Addresses, rules: Path | None) -> dict[str, Any]:
    """Returns Prometheus's configuration, with the job names that the alert rules and dashboards use."""
    services = {
        "gateway": addresses.http,
        "retriever": addresses.retriever_metrics,
        "lora-server": addresses.lora_server_metrics,
        "engine": addresses.engine,
    }
    return {
        "global": {"scrape_interval": SCRAPE_EVERY, "scrape_timeout": SCRAPE_EVERY, "evaluation_interval": "15s"},
        "rule_files": [f"{glob.escape(str(rules))}/*.yml"] if rules else [],
        "scrape_configs": [
            {"job_name": f"pointsman-{name}", "static_configs": [{"targets": [address]}]}
            for name, address in services.items()
            if address
        ],
    }


async def wait_for_prometheus(address: str) -> None:
    try:
        async with asyncio.timeout(_READY_SECONDS), open_async_client(timeout=_CALL_SECONDS, trust_env=False) as client:
            while not await is_ready(client, address):  # noqa: ASYNC110 -- the event would have to come from another process
                await asyncio.sleep(_INTERVAL)
    except TimeoutError:
        raise CommandError(f"{PROMETHEUS} was not ready after {_READY_SECONDS:g} s") from None


async def is_ready(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(f"http://{address}/-/ready")).is_success
    except httpx.RequestError:
        return False


def _folder(data_dir: DataDir) -> Path:
    return data_dir.folder / PROMETHEUS


def _configuration_file(data_dir: DataDir) -> Path:
    return _folder(data_dir) / "prometheus.yml"
