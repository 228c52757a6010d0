import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2, lora_server_pb2_grpc
from pointsman_cli.train.job import Heldout, Remark, Step, parse_event
from pointsman_servicekit.errors import InvalidArgument

Cli = Callable[..., Any]
Executable = Callable[[str], Path]
GrpcServer = Callable[..., str]

# Stands for the engine's python: the base model's maker does nothing, the trainer tells what it was asked.
TRAINER = """
import json, pathlib, sys
module, *arguments = sys.argv[2:]
if module == "pointsman_lora_server.base_model":
    sys.exit()
assert module == "pointsman_lora_server.training"
given = dict(zip(arguments[::2], arguments[1::2]))
out = pathlib.Path(given["--out"])
out.mkdir()
(out / "given.json").write_text(json.dumps(given))
def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)
tell("start", rows=90, steps=2)
tell("heldout", when="before", loss=3.5)
for step in (1, 2):
    tell("step", step=step, steps=2, loss=1 / step, tokens_per_second=260.0, eta_seconds=61.0)
print("two rows were too long", file=sys.stderr, flush=True)
tell("heldout", when="end", loss=0.1412)
tell("sample", text="lost my bag", expected="lost_item", got="lost_item", exact=True)
tell("done", folder=str(out), seconds=12.0)
"""


class LoraServer(lora_server_pb2_grpc.LoraServerServicer):
    def __init__(self) -> None:
        self.registered: list[lora_server_pb2.RegisterRequest] = []

    async def Register(self, request: lora_server_pb2.RegisterRequest, context: Any) -> lora_server_pb2.AdapterVersion:
        if request.name == "strange":
            raise InvalidArgument("rank 64 is above the engine's 16", code="rank_too_high")
        self.registered.append(request)
        aliases = [f"{request.name}@{request.alias}"] if request.alias else []
        return lora_server_pb2.AdapterVersion(version=f"{request.name}@3f9a1c0b77de", aliases=aliases)


@pytest.fixture
def lora_server(grpc_server: GrpcServer) -> tuple[LoraServer, str]:
    servicer = LoraServer()
    address = grpc_server(
        "pointsman.v1.LoraServer",
        lambda server: lora_server_pb2_grpc.add_LoraServerServicer_to_server(servicer, server),
    )
    return servicer, address


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "lost my bag", "output": "lost_item"}\n')
    return file


def test_an_adapter_is_trained_and_registered(
    cli: Cli, executable: Executable, data: Path, lora_server: tuple[LoraServer, str], tmp_path: Path
) -> None:
    servicer, address = lora_server
    out = tmp_path / "triage"

    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", out, "--rank", 8, "--alias", "prod",
        "--engine-python", executable(TRAINER), "--lora-server", address, "--home", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 0, outcome.err
    for part in ("rows 90", "held-out loss 3.5000 before", "step 2/2 · loss 0.5000 · 260 tokens/s · 1:01 left",
                 "two rows were too long", "held-out loss 0.1412 end", "lost_item",
                 "registered as triage@3f9a1c0b77de (triage@prod)"):  # fmt: skip
        assert part in outcome.out
    [request] = servicer.registered
    assert (request.name, request.folder, request.alias) == ("triage", str(out), "prod")
    assert dict(request.facts) == {
        "seed": "7", "train_file": "data.jsonl", "train_rows": "90", "heldout_loss": "0.1412",
    }  # fmt: skip


def test_the_trainer_gets_what_was_asked_and_no_more(
    cli: Cli, executable: Executable, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "triage"

    cli(
        "train", "--name", "triage", "--data", data, "--out", out, "--max-minutes", 2.5, "--no-register",
        "--engine-python", executable(TRAINER), "--home", tmp_path / ".pointsman",
    )  # fmt: skip

    assert json.loads((out / "given.json").read_text()) == {
        "--base-model": str(tmp_path / ".pointsman" / "models" / "smollm2-135m"),
        "--base-model-name": "smollm2-135m",
        "--data": str(data),
        "--out": str(out),
        "--name": "triage",
        "--rank": "4",
        "--epochs": "3",
        "--max-minutes": "2.5",
        "--seed": "7",
    }


def test_where_nothing_runs_the_adapter_stays_in_its_folder_and_it_is_said(
    cli: Cli, executable: Executable, data: Path, tmp_path: Path
) -> None:
    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", tmp_path / "triage",
        "--engine-python", executable(TRAINER), "--home", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 0
    assert "not registered, since nothing runs here" in outcome.out


def test_an_adapter_that_the_lora_server_refuses_is_told_with_its_reason(
    cli: Cli, executable: Executable, data: Path, lora_server: tuple[LoraServer, str], tmp_path: Path
) -> None:
    outcome = cli(
        "train", "--name", "strange", "--data", data, "--out", tmp_path / "strange", "--lora-server", lora_server[1],
        "--engine-python", executable(TRAINER), "--home", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 1
    assert outcome.err == "error: rank 64 is above the engine's 16 (rank_too_high)\n"


def test_a_failed_training_is_told_by_the_trainers_last_words(
    cli: Cli, executable: Executable, data: Path, tmp_path: Path
) -> None:
    fails = "import sys\nif sys.argv[2].endswith('training'): sys.exit('error: data.jsonl line 3: no output')"

    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", tmp_path / "triage",
        "--engine-python", executable(fails), "--home", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 1
    assert outcome.err == "error: the training of triage failed: data.jsonl line 3: no output\n"


def test_missing_data_is_named_before_anything_starts(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("train", "--name", "triage", "--data", tmp_path / "no.jsonl", "--out", tmp_path / "triage")

    assert outcome.code == 2
    assert outcome.err == f"error: --data {tmp_path / 'no.jsonl'} is not a file\n"


def test_a_missing_engine_environment_is_named_with_what_to_do(cli: Cli, data: Path, tmp_path: Path) -> None:
    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", tmp_path / "triage",
        "--engine-python", tmp_path / "bin" / "python", "--home", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 2
    assert f"the engine's Python is not at {tmp_path / 'bin' / 'python'}; make it with" in outcome.err


def test_events_are_read_and_what_is_none_is_shown_as_it_came() -> None:
    step = '{"event": "step", "step": 1, "steps": 9, "loss": 2, "tokens_per_second": 250, "eta_seconds": 30}'

    assert parse_event(step) == Step(1, 9, 2.0, 250.0, 30.0)
    assert parse_event('{"event": "heldout", "loss": 0.5}') == Heldout(0.5, "")
    for line in ("Downloading", "[1]", '{"loss": 1}', '{"event": "step", "step": 1}', '{"event": "new"}'):
        assert parse_event(line) == Remark(line)
