"""Fixtures: an installation whose state can be lost, and the bucket of docs/howto/backup-and-restore.md."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.helm.render import PROJECT
from tests.restore.installation import (
    Installation,
    answering,
    chart_valkey,
    programs_in,
    values_of_the_page,
    write_world,
)
from tests.restore.s3_server import running_s3
from tests.security.target import prepare_model, running_services


@pytest.fixture
async def installation(tmp_path: Path, bucket: dict[str, str]) -> AsyncIterator[Installation]:
    prepare_model()
    settings = {"shutdown_delay": 0}
    lora_settings = {"SMOKE_TEST": "off", "SHUTDOWN_DELAY": "0"}
    async with running_services(tmp_path, settings, lora_settings, run_valkey=chart_valkey) as services:
        home = tmp_path / "home"
        home.mkdir()
        (home / "deploy").symlink_to(PROJECT / "deploy")
        (home / "values.yaml").write_text(values_of_the_page())
        (home / ".env").write_text(f"POINTSMAN_CLI_TOKEN={services.tokens['admin']}\n")
        (tmp_path / "operator").write_text(services.tokens["admin"])
        one = Installation(services, home)
        async with await asyncio.start_unix_server(answering(one), tmp_path / "socket"):
            one.environment = {**os.environ, **bucket, **programs_in(tmp_path), "RESTORE_WORLD": str(write_world(one))}
            yield one


@pytest.fixture(scope="session")
def bucket() -> Iterator[dict[str, str]]:
    """Runs an S3 server with the page's bucket; yields the environment of its clients."""
    with running_s3("bucket") as environment:
        yield environment
