"""Other users of the machine cannot read the services' state."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pointsman_cli.data_dir import DataDir
from pointsman_cli.up import plan
from pointsman_lora_server.jobs.folder import JobFolder, open_inputs
from pointsman_lora_server.jobs.job import Job, JobRequest, JobState
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.keys.key_store import NewKey as KeyOrder

from tests.cli.test_up import UP
from tests.security.target import Addresses

CLI_TESTS = Path(__file__).parents[1] / "cli"
START_SECONDS = 60.0


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """Sets a umask with which everybody can read new files."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[tuple[str, str]]:
    """Returns the paths in a folder, and the folder itself, that other users may read, write or enter, with their
    modes.
    """
    found = [folder, *folder.rglob("*")]
    modes = [(path, path.lstat().st_mode & 0o777) for path in found if not path.is_symlink()]
    return [(str(path), oct(mode)) for path, mode in modes if mode & 0o077]


async def test_the_state_of_up_is_private_and_its_valkey_has_no_port(usual_umask: None, tmp_path: Path) -> None:
    home, example = tmp_path / "home", tmp_path / "example"
    (example / "config").mkdir(parents=True)
    (example / "pointsman.yaml").write_text("base_model: smollm2-135m\nconfig: config\n")
    (home / "valkey").mkdir(parents=True)  # created by an earlier version with open permissions
    python = tmp_path / "fake-python"
    python.write_text(f"#!{sys.executable}\n{(CLI_TESTS / 'fake_services.py').read_text()}")
    python.chmod(0o755)
    with (tmp_path / "up.log").open("wb") as log:
        up = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", UP, str(example), str(home), str(python)), stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (home / "run.json").exists():  # created by another process
                assert up.returncode is None, (tmp_path / "up.log").read_text()
                await asyncio.sleep(0.05)
        run = json.loads((home / "run.json").read_text())
        async with open_redis(run["redis_url"], lambda up: None, 5.0) as redis:
            await KeyStore(redis, lambda: 0.0).create(KeyOrder(tenant="acme"))
        assert open_to_others(home) == []
        assert ports_of(run["processes"]["valkey"]["pid"]) == []
    finally:
        up.send_signal(signal.SIGINT)
        await asyncio.wait_for(up.wait(), 60)
    assert open_to_others(home) == []


def ports_of(pid: int) -> list[str]:
    """Returns the ports at which a process listens."""
    own = {os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own]


def test_files_of_services_with_a_private_umask_are_private(target: Addresses) -> None:
    environment = Path(f"/proc/{target.gateway_pid}/environ").read_bytes().decode()
    wal = re.search(r"POINTSMAN_GATEWAY_WAL_DIR=([^\0]+)", environment)
    assert wal
    folder = Path(wal[1]).parent
    assert {path.name for path in folder.iterdir()} >= {"retriever", "lora-server", "valkey", "wal"}
    assert [path for path, _ in open_to_others(folder) if not path.endswith("/python")] == []


def test_a_home_with_a_long_path_has_its_socket_in_a_private_folder(
    usual_umask: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = Path("/tmp", f"pointsman-test-{os.getpid()}")
    temporary.mkdir()
    try:
        monkeypatch.setattr("tempfile.tempdir", str(temporary))
        home = DataDir.at(tmp_path / ("long" * 30))
        plan.prepare_folders(home)
        folder = plan.socket_path(home).parent
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        assert urlsplit(plan.redis_url(home)).path == str(plan.socket_path(home))
        folder.rmdir()
    finally:
        temporary.rmdir()


def test_a_jobs_copies_are_private_whatever_the_umask(usual_umask: None, tmp_path: Path) -> None:
    secret = tmp_path / "data.jsonl"
    secret.write_text('{"text": "secret"}\n')
    folder = JobFolder(tmp_path / "jobs" / "job-1")
    request = JobRequest("x", data=secret, heldout=secret)
    with ExitStack() as files:
        folder.create(Job("job-1", request, JobState.QUEUED, 0), open_inputs(request, [tmp_path], files))
    assert folder.path.stat().st_mode & 0o777 == 0o700
    copies = [path for path in (folder.path / "input").rglob("*") if path.is_file()]
    assert [copy.stat().st_mode & 0o777 for copy in copies] == [0o600, 0o600]
