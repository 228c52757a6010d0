"""Verifies a certificate: runs all checks, in the order in which they are shown."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from pointsman_cli.certificate.catalog_checks import catalog_checks
from pointsman_cli.certificate.checks import Check, Outcome, data_check, figures_check, file_checks, overall
from pointsman_cli.certificate.sample import Sampling, sample_checks
from pointsman_cli.certificate.statement import Certificate, Statement, read_certificate
from pointsman_cli.errors import CommandError, Unreachable
from pointsman_cli.eval.catalog import Catalog, read_catalog, to_catalog
from pointsman_cli.eval.dataset import Dataset, read_dataset
from pointsman_cli.gateway_http import open_client
from pointsman_cli.options import bearer

ENTRY_POINT = "entry_point"
"""The name of the metric that calls a function in the user's own code, and of its setting that names the function.

The setting is in the certificate, so the function is called only if --trusted-key is given.
"""

_CATALOG_SECONDS = 60.0
_LORA_SERVER = "127.0.0.1:8083"
_PAST_THE_CACHE = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True)
class ConfigurationSource:
    """The place from which the present configuration is read: a running gateway, or a configuration folder."""

    url: str
    """The base URL of the gateway."""
    key: str
    """The API key for the gateway; if it is empty, requests are sent without a key."""
    config: Path | None = None
    """The configuration folder to read; None if the gateway is asked. If it is set, no rows are sent to the gateway."""

    def client(self) -> httpx.AsyncClient:
        return open_client(self.url, _PAST_THE_CACHE | bearer(self.key))


@dataclass(frozen=True, slots=True)
class Verification:
    """The user's inputs to the verification of a certificate: data set, sampling, trusted key, adapter folders."""

    data: Path | None
    """The file of the evaluated data set; if it is None, the data set is not compared, and no sample of its rows is
    sent.
    """
    sampling: Sampling
    trusted_key: Path | None
    """A PEM file with the key by which the certificate must be signed; if it is None, any key or no signature is
    accepted.
    """
    folders: Mapping[str, Path]
    """Folders of adapters whose files are compared with the certified digests, by the adapters' names."""


async def fetch_catalog(source: ConfigurationSource) -> Catalog:
    """Returns the present tasks, paths and prices, from the gateway or the configuration folder of `source`.

    Raises Refused, Unreachable or CommandError if the gateway does not answer as expected, CommandError if the
    configuration in the folder is not valid.
    """
    if source.config:
        return await asyncio.to_thread(_catalog_of_folder, source.config)
    async with source.client() as client:
        return await read_catalog(client)


def _catalog_of_folder(folder: Path) -> Catalog:
    """Starts a gateway process that lists the tasks, paths and prices of a configuration folder, and returns them.

    Raises CommandError if the configuration is not valid.
    """
    program = [sys.executable, "-m", "pointsman_gateway", "--catalog", str(folder)]
    environment = {"POINTSMAN_LORA_SERVER": _LORA_SERVER, **os.environ}  # examples need the variable
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=_CATALOG_SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise CommandError(f"the gateway did not list {folder} within {_CATALOG_SECONDS:g} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise CommandError(f"--config {folder}: {lines[-1].removeprefix('pointsman_gateway: ')}")
    return to_catalog(json.loads(done.stdout))


async def verify(file: Path, source: ConfigurationSource, given: Verification) -> tuple[Certificate, list[Check]]:
    """Reads and verifies the certificate in `file`; returns it with the results of all checks.

    A sample of rows is sent to the gateway only if all other checks leave the certificate valid or weakened. If the
    gateway cannot be reached when its configuration is fetched, the certificate counts as weakened, and a check says
    so.

    Raises UsageError if a file cannot be read or an option is wrong, CommandError if the gateway or the configuration
    folder fails otherwise.
    """
    certificate = read_certificate(file)
    statement = certificate.statement
    checks = list(file_checks(certificate, given.trusted_key, datetime.now(UTC)))
    checks.append(figures_check(statement))
    if not any(verdict.is_decided for verdict in statement.verdicts):
        checks.append(Check("verdicts", Outcome.WEAKENED, "the rows decided none"))
    checks.append(data_check(statement, given.data))
    try:
        catalog = await fetch_catalog(source)
    except Unreachable as error:
        checks.append(Check("configuration", Outcome.WEAKENED, f"paths, prompts and prices were not compared: {error}"))
        return certificate, checks
    checks += catalog_checks(statement, catalog, given.folders)
    reason = _reason_to_send_nothing(statement, source, given, checks)
    if reason or given.data is None:
        return certificate, [*checks, Check("sample", Outcome.NOT_CHECKED, f"no row was sent: {reason}")]
    async with source.client() as client:
        dataset = _dataset(statement, given.data)
        return certificate, [*checks, *await sample_checks(client, statement, catalog, dataset, given.sampling)]


def _dataset(statement: Statement, file: Path) -> Dataset:
    """Reads the data set in `file`. If the certificate has one task only, rows that name no task belong to it."""
    tasks = [task.task for task in statement.report.tasks]
    return read_dataset(file, tasks[0] if len(tasks) == 1 else "")


def _reason_to_send_nothing(
    statement: Statement, source: ConfigurationSource, given: Verification, checks: Sequence[Check]
) -> str:
    """Returns why no sample of rows is sent to the gateway; empty if a sample is sent."""
    if not given.sampling.rows:
        return "--sample is 0"
    if source.config:
        return "a configuration without a gateway answers nothing"
    if given.data is None:
        return "the data set is missing"
    if overall(checks) == "invalid":
        return "it is invalid anyway"
    if given.trusted_key is None and any(ENTRY_POINT in task.metric_settings for task in statement.report.tasks):
        return "a metric is code, which is run for a signed certificate with --trusted-key only"
    return ""
