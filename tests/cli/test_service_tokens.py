"""The tokens that `up` writes, and the addresses to which a command sends them."""

import os
from pathlib import Path

import pytest
from pointsman_cli.data_dir import DataDir, Run, authenticate_to, token_for, write_run, write_tokens
from pointsman_cli.errors import CommandError
from pointsman_cli.options import lora_server_address, retriever_address
from pointsman_servicekit.service_tokens import Role, parse_peers

RETRIEVER, LORA_SERVER = "127.0.0.1:20001", "127.0.0.1:20002"
NAMES = ("retriever", "lora-server", "gateway", "cli")


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDir:
    monkeypatch.delenv("POINTSMAN_CLIENT_TOKEN_FILE", raising=False)
    made = DataDir.at(tmp_path / "home")
    made.folder.mkdir()
    write_tokens(made)
    authenticate_to((), made)
    return made


def write_running(data_dir: DataDir) -> None:
    urls = dict.fromkeys(("http", "engine", "redis_url"), "http://127.0.0.1:1")
    metrics = {f"{name}_metrics": "" for name in ("gateway", "retriever", "lora_server")}
    run = Run(os.getpid(), "", grpc="", retriever=RETRIEVER, lora_server=LORA_SERVER, processes={}, **urls, **metrics)
    write_run(run, data_dir.run_file)


def sent_to(address: str) -> str:
    token = token_for(address)
    return token() if token else ""


def test_the_files_are_private_and_each_service_knows_its_peers(data_dir: DataDir) -> None:
    assert [oct(data_dir.token(name).stat().st_mode & 0o777) for name in NAMES] == ["0o600"] * 4
    assert oct(data_dir.token("cli").parent.stat().st_mode & 0o777) == "0o700"
    roles = {
        name: {peer.name: peer.role for peer in parse_peers(data_dir.token(name).read_text()).values()}
        for name in ("retriever", "lora-server")
    }
    assert roles == {
        "retriever": {"cli": Role.ADMIN, "gateway": Role.READ},
        "lora-server": {"cli": Role.ADMIN, "gateway": Role.ADMIN},
    }


def test_tokens_are_reused_and_all_are_renewed_if_one_file_is_missing(data_dir: DataDir) -> None:
    before = [data_dir.token(name).read_text() for name in NAMES]
    write_tokens(data_dir)
    assert [data_dir.token(name).read_text() for name in NAMES] == before
    data_dir.token("gateway").unlink()
    write_tokens(data_dir)
    assert not {data_dir.token(name).read_text() for name in NAMES} & set(before)


def test_tokens_are_sent_to_the_local_services_only(data_dir: DataDir) -> None:
    assert (lora_server_address(LORA_SERVER, data_dir.folder), sent_to(LORA_SERVER)) == (LORA_SERVER, "")
    write_running(data_dir)
    cli = data_dir.token("cli").read_text()
    assert (retriever_address("", data_dir.folder), sent_to(RETRIEVER)) == (RETRIEVER, cli)
    assert (lora_server_address(LORA_SERVER, data_dir.folder), sent_to(LORA_SERVER)) == (LORA_SERVER, cli)
    elsewhere = "10.0.0.5:8083"
    assert (lora_server_address(elsewhere, data_dir.folder), sent_to(elsewhere)) == (elsewhere, "")


def test_other_services_get_the_token_from_the_named_file(
    data_dir: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_running(data_dir)
    (tmp_path / "named").write_text("n" * 32)
    monkeypatch.setenv("POINTSMAN_CLIENT_TOKEN_FILE", str(tmp_path / "named"))
    retriever_address("", data_dir.folder)
    assert [sent_to("10.0.0.5:8082"), sent_to(RETRIEVER)] == ["n" * 32, data_dir.token("cli").read_text()]
    monkeypatch.setenv("POINTSMAN_CLIENT_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(CommandError, match=r"the token for 10.0.0.5:8082: .*missing cannot be read"):
        token_for("10.0.0.5:8082")
