import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2, lora_server_pb2_grpc
from pointsman_cli.train.progress import Evaluation, Message, TrainingStep, parse_event
from pointsman_embedding.prepare import prepare
from pointsman_servicekit.errors import InvalidArgument

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = Path(__file__).parents[2] / ".pointsman" / "models" / "minilm"

Cli = Callable[..., Any]
Executable = Callable[[str], Path]
GrpcServer = Callable[..., str]

# Replaces the engine's Python: the script that makes the base model does nothing, and the trainer prints its arguments.
TRAINER = """
import json, pathlib, sys
module, *arguments = sys.argv[2:]
if module == "pointsman_lora_server.base_model":
    sys.exit()
assert module == "pointsman_lora_server.training"
given = {}
for part in arguments:
    if part.startswith("--"):
        name = part
        given[name] = True
    else:
        given[name] = part
out = pathlib.Path(given["--out"])
out.mkdir(parents=True)
(out / "given.json").write_text(json.dumps(given))
def tell(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)
tell("data", rows=90, heldout_rows=10, left_out={"duplicate": 2, "too_long": 0}, tokens={"median": 30, "longest": 61},
     labels={"answer": {"lost_item": 60, "refund": 30}})
if given.get("--check-only"):
    tell("prompt", text="<user>lost my bag</user>⟦lost_item</a>", row="data.jsonl:1")
    sys.exit()
tell("start", rows=90, steps=2)
tell("evaluation", when="before", step=0, loss=3.5)
for step in (1, 2):
    tell("step", step=step, steps=2, loss=1 / step, tokens_per_second=260.0, eta_seconds=61.0)
print("two rows were too long", file=sys.stderr, flush=True)
tell("evaluation", when="during", step=2, loss=0.1412, exact=0.75, json_f1=0.9, rows=16, best=True)
tell("sample", text="lost my bag", expected="lost_item", got="lost_item", exact=True)
tell("evaluation", when="end", step=2, loss=0.1412, exact=0.75, json_f1=0.9, prompt_path_exact=0.5,
     prompt_path_json_f1=0.6)
tell("done", folder=str(out), seconds=12.0, metrics={"heldout_loss": 0.1412},
     merged=str(out / "merged") if given["--method"] == "dora" else None, must_be_merged=given["--method"] == "dora")
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
        "--engine-python", executable(TRAINER), "--lora-server", address, "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 0, outcome.err
    for part in ("data: 90 rows, 10 held out; tokens a row: median 30, longest 61; left out: 2 duplicate",
                 "answer: lost_item 60, refund 30", "rows 90", "held-out loss 3.5000 before",
                 "step 2/2 · loss 0.5000 · 260 tokens/s · 1:01 left", "two rows were too long",
                 "held-out loss 0.1412 · exact 0.75 · json_f1 0.9 at step 2, the best by now",
                 "the trainer's few-shot prompt: exact 0.75 against 0.5, json_f1 0.9 against 0.6; it beats prompting",
                 "registered as triage@3f9a1c0b77de (triage@prod)"):  # fmt: skip
        assert part in outcome.out
    [request] = servicer.registered
    assert (request.name, request.folder, request.alias) == ("triage", str(out), "prod")
    assert dict(request.facts) == {
        "method": "lora", "seed": "7", "train_file": "data.jsonl", "train_rows": "90", "heldout_loss": "0.1412",
    }  # fmt: skip


def test_the_trainer_gets_the_given_options_only(cli: Cli, executable: Executable, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "triage"

    cli(
        "train", "--name", "triage", "--data", data, "--out", out, "--max-minutes", 2.5, "--no-register",
        "--engine-python", executable(TRAINER), "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert json.loads((out / "given.json").read_text()) == {
        "--base-model": str(tmp_path / ".pointsman" / "models" / "smollm2-135m"),
        "--base-model-name": "smollm2-135m",
        "--data": str(data),
        "--out": str(out),
        "--name": "triage",
        "--method": "lora",
        "--rank": "4",
        "--epochs": "3",
        "--max-minutes": "2.5",
        "--seed": "7",
    }


def test_training_data_may_be_csv(cli: Cli, executable: Executable, tmp_path: Path) -> None:
    """The rows without an output, which are for other tasks, are left out; lines stay where they were."""
    file, unlabelled = tmp_path / "labelled.csv", tmp_path / "unlabelled.csv"
    heldout = tmp_path / "heldout" / "labelled.csv"
    heldout.parent.mkdir()
    heldout.write_text("text,output\nmy seat,booking\n")
    file.write_text('text,task,output\nmy bag,triage,lost\nhello,chat,\nmy "money",triage,refund\n')
    unlabelled.write_text("text,task,output\nhello,chat,\n")
    options = ("--data-dir", tmp_path / "home", "--engine-python", executable(TRAINER), "--out", tmp_path / "a")

    trained = cli("train", "--name", "triage", "--data", file, "--eval-data", heldout, *options)
    refused = cli("train", "--name", "triage", "--data", unlabelled, *options)

    assert trained.code == 0, trained.err
    given = json.loads((tmp_path / "a" / "given.json").read_text())
    assert json.loads(Path(given["--eval-data"]).read_text()) == {"text": "my seat", "output": "booking"}
    assert given["--data"] == str(tmp_path / "home/from_csv/triage/data/labelled.jsonl")
    lines = Path(given["--data"]).read_text().split("\n")
    assert [json.loads(line) if line else None for line in lines] == [
        None, {"text": "my bag", "output": "lost"}, None, {"text": 'my "money"', "output": "refund"}, None,
    ]  # fmt: skip
    assert (refused.code, refused.err) == (2, f"error: {unlabelled} has no row with a text and its right output\n")


def test_rows_are_rendered_as_prompts_of_a_path_before_the_training(
    cli: Cli, executable: Executable, data: Path, tmp_path: Path
) -> None:
    example, out, home = tmp_path / "example", tmp_path / "triage", tmp_path / ".pointsman"
    shutil.copytree(EXAMPLES / "helpdesk", example)
    prepare(MODEL)
    (home / "models").mkdir(parents=True)
    (home / "models" / "minilm").symlink_to(MODEL)
    options = ("--data", data, "--config", example, "--out", out, "--no-register", "--data-dir", home)

    outcome = cli(
        "train", "--name", "triage", "--path", "triage_few_shot", *options, "--engine-python", executable(TRAINER),
    )  # fmt: skip

    assert outcome.code == 0, outcome.err
    assert "rendered as prompts of triage_few_shot: 1 rows" in outcome.out
    rendered = Path(json.loads((out / "given.json").read_text())["--data"])
    assert rendered == home / "rendered" / "triage" / "data.jsonl"
    (row,) = [json.loads(line)["messages"] for line in rendered.read_text().splitlines()]
    assert [message["role"] for message in row] == ["system", *["user", "assistant"] * 7]
    assert [message["content"] for message in row[-2:]] == ["lost my bag", "lost_item"]

    outcome = cli("train", "--name", "triage", "--path", "none", *options)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("error: there is no path 'none'; known: branded_letter, ")
    outcome = cli("train", "--name", "triage", "--path", "triage_few_shot", "--system", data, *options)
    assert outcome.err.splitlines()[-1] == "error: --path renders the path's own system message; leave out --system"


def test_if_no_lora_server_runs_the_adapter_stays_in_its_folder_and_that_is_printed(
    cli: Cli, executable: Executable, data: Path, tmp_path: Path
) -> None:
    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", tmp_path / "triage",
        "--engine-python", executable(TRAINER), "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 0
    assert "not registered, since nothing runs here" in outcome.out


def test_an_adapter_rejected_by_the_lora_server_is_reported_with_its_reason(
    cli: Cli, executable: Executable, data: Path, lora_server: tuple[LoraServer, str], tmp_path: Path
) -> None:
    outcome = cli(
        "train", "--name", "strange", "--data", data, "--out", tmp_path / "strange", "--lora-server", lora_server[1],
        "--engine-python", executable(TRAINER), "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 1
    assert outcome.err == "error: rank 64 is above the engine's 16 (rank_too_high)\n"


def test_a_failed_training_is_reported_with_the_trainers_last_message(
    cli: Cli, executable: Executable, data: Path, tmp_path: Path
) -> None:
    fails = "import sys\nif sys.argv[2].endswith('training'): sys.exit('error: data.jsonl line 3: no output')"

    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", tmp_path / "triage",
        "--engine-python", executable(fails), "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 1
    assert outcome.err == "error: the training of triage failed: data.jsonl line 3: no output\n"


def test_missing_data_is_named_before_anything_starts(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("train", "--name", "triage", "--data", tmp_path / "no.jsonl", "--out", tmp_path / "triage")

    assert outcome.code == 2
    assert (
        outcome.err
        == f"error: --data {tmp_path / 'no.jsonl'} is not a file; name one of labelled rows, .jsonl or .csv\n"
    )


def test_a_name_that_no_adapter_can_have_is_rejected_before_the_training(cli: Cli, data: Path, tmp_path: Path) -> None:
    outcome = cli("train", "--name", "Bank", "--data", data, "--check-only", "--data-dir", tmp_path / ".pointsman")
    assert outcome.err == "error: --name Bank cannot be an adapter's name: 1 to 64 of a-z, 0-9, '-' and '_'\n"


def test_a_missing_engine_environment_is_named_with_the_remedy(cli: Cli, data: Path, tmp_path: Path) -> None:
    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", tmp_path / "triage",
        "--engine-python", tmp_path / "bin" / "python", "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 2
    assert f"the engine's Python is not at {tmp_path / 'bin' / 'python'}; " in outcome.err
    assert "pip install" in outcome.err


def test_every_method_and_option_is_passed_to_the_trainer_under_its_name(
    cli: Cli, executable: Executable, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "triage"

    cli(
        "train", "--name", "triage", "--data", data, "--out", out, "--method", "rslora", "--patience", 3, "--resume",
        "--checkpoint", tmp_path / "state", "--init-from", tmp_path / "older", "--baseline-shots", 0,
        "--stop-on", "metric", "--no-register", "--engine-python", executable(TRAINER),
        "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    given = json.loads((out / "given.json").read_text())
    assert given["--resume"] is True
    expected = {
        "--method": "rslora", "--patience": "3", "--checkpoint": str(tmp_path / "state"),
        "--init-from": str(tmp_path / "older"), "--baseline-shots": "0", "--stop-on": "metric",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected


def test_dora_is_never_registered_and_the_path_of_its_merged_model_is_printed(
    cli: Cli, executable: Executable, data: Path, lora_server: tuple[LoraServer, str], tmp_path: Path
) -> None:
    outcome = cli(
        "train", "--name", "triage", "--data", data, "--out", tmp_path / "triage", "--method", "dora",
        "--engine-python", executable(TRAINER), "--lora-server", lora_server[1], "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 0
    assert f"{tmp_path / 'triage' / 'merged'} holds the base model with the adapter merged in" in outcome.out
    assert "not registered: an engine cannot serve dora as an adapter" in outcome.out
    assert lora_server[0].registered == []


def test_checking_shows_the_data_and_the_prompt_and_registers_nothing(
    cli: Cli, executable: Executable, data: Path, lora_server: tuple[LoraServer, str], tmp_path: Path
) -> None:
    outcome = cli(
        "train", "--name", "triage", "--data", data, "--check-only", "--lora-server", lora_server[1],
        "--engine-python", executable(TRAINER), "--data-dir", tmp_path / ".pointsman",
    )  # fmt: skip

    assert outcome.code == 0
    assert "answer: lost_item 60, refund 30" in outcome.out
    assert "data.jsonl:1, as the model reads it" in outcome.out
    assert "<user>lost my bag</user>⟦lost_item</a>" in outcome.out
    assert lora_server[0].registered == []


def test_training_needs_a_destination(cli: Cli, data: Path) -> None:
    outcome = cli("train", "--name", "triage", "--data", data)

    assert outcome.code == 2
    assert outcome.err == "error: --out names the folder that the adapter is written to\n"


def test_events_are_parsed_and_other_lines_are_shown_unchanged() -> None:
    step = '{"event": "step", "step": 1, "steps": 9, "loss": 2, "tokens_per_second": 250, "eta_seconds": 30}'

    assert parse_event(step) == TrainingStep(1, 9, 2.0, 250.0, 30.0)
    text = '{"event": "evaluation", "when": "end", "step": 9, "loss": 0.5, "exact": 1, "prompt_path_exact": 0.25}'
    assert parse_event(text) == Evaluation("end", 9, 0.5, {"exact": 1.0}, {"exact": 0.25}, False)
    for line in ("Downloading", "[1]", '{"loss": 1}', '{"event": "step", "step": 1}', '{"event": "new"}'):
        assert parse_event(line) == Message(line)
