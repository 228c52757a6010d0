"""`pointsman doctor --security`: reports what a running deployment leaves open."""

import os
from pathlib import Path

import pytest
from aiohttp import web
from pointsman_cli.__main__ import run
from pointsman_cli.doctor.machine import Level
from pointsman_cli.doctor.security import check_files, check_gateway, check_redis, is_loopback, listening_ports

from tests.gateway.doubles.http_server import serving
from tests.security.target import Addresses

HEX_LOOPBACK, HEX_ANY = "0100007F:1F90", "00000000:1F90"
HEX_LOOPBACK_6, HEX_ANY_6 = "00000000000000000000000001000000:1F91", "00000000000000000000000000000000:1F91"


async def test_a_gateway_with_keys_on_a_loopback_address_passes(target: Addresses) -> None:
    found = {finding.what: finding for finding in await check_gateway(f"http://{target.http}")}
    assert {what: finding.level for what, finding in found.items()} == {
        "keys": Level.OK,
        "metrics": Level.WARN,
        "tls": Level.OK,
    }
    assert "POINTSMAN_GATEWAY_METRICS_LISTEN" in found["metrics"].detail


async def test_a_gateway_whose_console_is_blocked_is_checked_too() -> None:
    """The console's page needs no key and contains no data, so the check does not request it."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/console":
            assert request.transport
            request.transport.abort()
        return web.Response(status=401 if request.path == "/v1/models" else 404)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with serving(app) as url:
        found = await check_gateway(url)
    assert {finding.what: finding.level for finding in found} == dict.fromkeys(("keys", "metrics", "tls"), Level.OK)


def test_the_exit_code_tells_whether_something_must_be_fixed(
    target: Addresses, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    private, shared = tmp_path / "private", tmp_path / "shared"
    private.mkdir(mode=0o700)
    shared.mkdir()
    shared.chmod(0o755)
    arguments = ["doctor", "--security"]
    assert run([*arguments, "--cluster", f"http://{target.http}"]) == 0
    assert run([*arguments, "--data-dir", str(private)]) == 0
    capfd.readouterr()
    assert run([*arguments, "--data-dir", str(shared)]) == 1
    assert f"fail files: other users can open {shared} (mode 755): chmod 700 {shared}" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("# NAME ROLE TOKEN\ncli admin " + "0123456789abcdef" * 4, 0o600, None),
        ("cli admin " + "0123456789abcdef" * 4, 0o644, "token files"),
        ("cli admin " + "x" * 64, 0o600, "token strength"),
    ],
)
def test_tokens_that_others_can_read_or_guess_are_found(
    tmp_path: Path, content: str, mode: int, problem: str | None
) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "tokens"
    folder.mkdir(mode=0o700)
    (folder / "retriever").write_text(content)
    (folder / "retriever").chmod(mode)
    failed = [finding.what for finding in check_files(tmp_path) if finding.level is Level.FAIL]
    assert failed == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("unix:///run/valkey.sock", Level.OK),
        ("redis://:secret@127.0.0.1:6379/0", Level.OK),
        ("redis://127.0.0.1:6379/0", Level.FAIL),
    ],
)
def test_redis_without_a_password_is_open(url: str, level: Level) -> None:
    assert check_redis(url).level is level


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("[::1]", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("a.b", False),
    ],
)
def test_loopback_addresses_are_recognized(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_listeners_on_other_addresses_are_found(tmp_path: Path) -> None:
    process = tmp_path / "7"
    (process / "fd").mkdir(parents=True)
    (process / "net").mkdir()
    for number in range(6):
        os.symlink(f"socket:[{100 + number}]", process / "fd" / str(number))
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

    def row(address: str, state: str, inode: int) -> str:
        return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"

    rows = [row(HEX_LOOPBACK, "0A", 100), row(HEX_ANY, "0A", 101), row("00000000:0050", "01", 102)]
    (process / "net" / "tcp").write_text(head + "".join(rows) + row("00000000:0051", "0A", 999))
    (process / "net" / "tcp6").write_text(head + row(HEX_LOOPBACK_6, "0A", 103) + row(HEX_ANY_6, "0A", 104))
    assert listening_ports(7, tmp_path) == [0x1F90, 0x1F91]


def test_the_processes_of_the_target_listen_on_loopback_addresses_only(target: Addresses) -> None:
    assert listening_ports(target.gateway_pid) == []
