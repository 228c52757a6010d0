"""The Prometheus that is installed, beside the services: told where they are, and run as one more child."""

import asyncio
import glob
import shutil
from pathlib import Path
from typing import Any

import httpx
import yaml

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.up.plan import Service
from pointsman_cli.up.ports import Addresses

NAME = "prometheus"
RULES = Path(__file__).parents[4] / "deploy" / "prometheus" / "rules"  # where we run from a checkout
SCRAPE_EVERY = "5s"
KEEP_FOR, KEEP_AT_MOST = "7d", "1GB"
_READY_SECONDS = 120.0  # it reads its log of writes again before it is ready
_CALL_SECONDS = 2.0
_INTERVAL = 0.1  # seconds between two looks


def find_program() -> Path:
    """Raises `Misused` with how to get it where it is not installed."""
    found = shutil.which(NAME)
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
    return Service(NAME, command, {}, address, data_dir.log(NAME), grace=10)


def write_configuration(data_dir: DataDir, addresses: Addresses, rules: Path = RULES) -> None:
    """Leaves the rules out where there are none."""
    file = _configuration_file(data_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(_configuration(addresses, rules if rules.is_dir() else None), sort_keys=False)
    file.write_text(f"# Written anew by each `pointsman up --monitoring`.\n{text}", encoding="utf-8")


def _configuration(addresses: Addresses, rules: Path | None) -> dict[str, Any]:
    """The jobs' names are those that the rules and the dashboards know."""
    jobs = {
        "gateway": addresses.http,
        "retriever": addresses.retriever_metrics,
        "lora-server": addresses.lora_server_metrics,
        "engine": addresses.engine,
    }
    return {
        "global": {"scrape_interval": SCRAPE_EVERY, "scrape_timeout": SCRAPE_EVERY, "evaluation_interval": "15s"},
        "rule_files": [f"{glob.escape(str(rules))}/*.yml"] if rules else [],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in jobs.items()
        ],
    }


async def serving(address: str) -> None:
    """Waits until it can be asked."""
    try:
        async with asyncio.timeout(_READY_SECONDS), httpx.AsyncClient(timeout=_CALL_SECONDS, trust_env=False) as client:
            while not await is_ready(client, address):  # noqa: ASYNC110 -- the event would have to come from another process
                await asyncio.sleep(_INTERVAL)
    except TimeoutError:
        raise CommandError(f"{NAME} was not ready after {_READY_SECONDS:g} s") from None


async def is_ready(client: httpx.AsyncClient, address: str) -> bool:
    try:
        return (await client.get(f"http://{address}/-/ready")).is_success
    except httpx.TransportError:
        return False


def _folder(data_dir: DataDir) -> Path:
    return data_dir.folder / NAME


def _configuration_file(data_dir: DataDir) -> Path:
    return _folder(data_dir) / "prometheus.yml"
