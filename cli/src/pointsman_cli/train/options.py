"""The options of `pointsman train`, and the command line with which the trainer is run."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.errors import UsageError
from pointsman_cli.eval.dataset import CSV_COLUMNS, text_of
from pointsman_cli.example import NAME_PATTERN

NameOption = Annotated[str, typer.Option(help="Name of the adapter: 1 to 64 of a-z, 0-9, - and _.")]
DataOption = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="Training examples: .jsonl, or .csv with text and output; pairs of answers for dpo."
    ),
]
BaseModelOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="smollm2-135m, a folder, or a name at the Hugging Face hub; not with --on-server."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder to write the adapter to; replaces an older adapter there."),
]
EvalDataOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Examples to evaluate on; default: a held-out share of --data.")
]
SystemOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A file with the system message for examples that have none.")
]
PathOption = Annotated[
    str,
    typer.Option(
        "--path",
        metavar="NAME",
        help="Train on the prompts of this path: its examples and passages, as when it serves.",
    ),
]
InitFromOption = Annotated[
    str,
    typer.Option(
        metavar="DIR|VERSION", help="The adapter to start from: a folder; with --on-server a registered version."
    ),
]
MergedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Also write the base model with the adapter merged in (dora: default OUT/merged)."
    ),
]

DEFAULT_METHOD = "lora"
MethodOption = Annotated[
    str,
    typer.Option(
        help="Training method, such as lora, or dpo, which learns from pairs of answers (docs/training.md lists them); "
        "an installed method, or MODULE:ATTRIBUTE in the engine's environment."
    ),
]
ServedMethodOption = Annotated[
    str,
    typer.Option(
        help="Training method whose result an engine serves as an adapter, such as lora, or dpo, which learns from "
        "pairs of answers (docs/training.md lists them); or one that is installed at the lora-server."
    ),
]
RankOption = Annotated[int, typer.Option(min=1, max=64, help="LoRA rank; the engine limits it (--max-lora-rank).")]
EpochsOption = Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")]
MinutesOption = Annotated[
    float, typer.Option(min=0.1, metavar="MINUTES", help="Stop after this time and keep the result so far.")
]
MinEpochsOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="EPOCHS", help="Train nothing if less fits into --max-minutes (default: 1); 0: go on."),
]
MAX_ROWS = 2**32 - 1
"""The largest number of rows that a message of the training service can hold (an unsigned 32-bit number)."""
MaxRowsOption = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_ROWS, metavar="ROWS", help="Train on at most so many rows, chosen at random."),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that share each step, as many as GPUs (default: 1); the result is the same."),
]
FsdpOption = Annotated[
    bool,
    typer.Option(
        "--fsdp", help="Divide the base model's weights among --processes, so that each GPU needs less memory."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Random seed.")]
RateOption = Annotated[
    float | None, typer.Option(min=1e-7, max=1, help="Peak learning rate; default: depends on the method.")
]
BetaOption = Annotated[
    float | None, typer.Option(min=1e-6, help="For dpo: strength of the penalty for leaving the reference model.")
]

SamplesOption = Annotated[int | None, typer.Option(min=0, help="Held-out examples to answer at the end.")]
ShotsOption = Annotated[
    int | None,
    typer.Option(min=0, help="Few-shot examples in the prompts that training is compared with; 0: no comparison."),
]
PatienceOption = Annotated[
    int | None, typer.Option(min=0, help="Stop after this many evaluations without improvement; 0: never.")
]

CheckOption = Annotated[
    bool, typer.Option("--check-only", help="Check the data, show the first rendered prompt and exit.")
]
EvaluateOption = Annotated[
    bool, typer.Option("--evaluate-only", help="Evaluate the adapter in --out and rewrite its report.")
]
CheckpointOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for the state of an unfinished run.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue from --checkpoint if there is one.")]

RegisterOption = Annotated[
    bool, typer.Option("--register/--no-register", help="Register the result with the running lora-server, or do not.")
]
AliasOption = Annotated[str, typer.Option(metavar="ALIAS", help="Also move NAME@ALIAS to the result.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Move the alias even if prompting is as good on the held-out examples.")
]
OnServerOption = Annotated[
    bool,
    typer.Option(
        "--on-server", help="Train as a job of the lora-server; the job continues if this command is stopped."
    ),
]
OnKubernetesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Train as the Kubernetes Job of this file, which the chart renders (docs/training.md); goes on after "
        "Ctrl-C.",
    ),
]
TrainJobOption = Annotated[
    str,
    typer.Option(metavar="RUNTIME", help="With --on-kubernetes: a TrainJob of this Kubeflow ClusterTrainingRuntime."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="With --on-kubernetes: print the objects and exit.")]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="With --on-server or --on-kubernetes: print the job's id and exit.")
]

TRAINER_MODULE = "pointsman_lora_server.training"


class StopOn(str, Enum):  # noqa: UP042  # typer shows the values of such
    LOSS = "loss"
    METRIC = "metric"


StopOnOption = Annotated[StopOn | None, typer.Option(help="What selects the best weights.")]


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """The data and the options for training one adapter."""

    name: str
    """The name of the adapter."""
    data: Path
    """The file of training examples."""
    method: str
    heldout: Path | None = None
    """The file of examples for the evaluation; None: a share of `data` is held out from the training."""
    system: Path | None = None
    """The file with the system message for examples that have none; None: there is no such file."""
    out: Path | None = None
    """The folder to write the adapter to; None for a job of the lora-server."""
    options: Mapping[str, object] = field(default_factory=dict)
    """More options of the trainer by name, such as "max-minutes"; None stands for the default, True for a flag."""

    def check(self) -> None:
        """Raises UsageError if a file does not exist, or the name is not a valid name of an adapter."""
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise UsageError(f"--name {self.name} cannot be an adapter's name: 1 to 64 of a-z, 0-9, '-' and '_'")
        for option, file in (("--data", self.data), ("--eval-data", self.heldout), ("--system", self.system)):
            if file is not None and not file.is_file():
                raise UsageError(f"{option} {file} is not a file; name one of labelled rows, .jsonl or .csv")

    def with_csv_as_json_lines(self, folder: Path) -> "TrainingJob":
        """Returns the job with JSON Lines files in place of its CSV files.

        The new files are written to folders in `folder`. Rows without an output are left out. Raises UsageError if a
        CSV file cannot be read or has no row with a text and an output.
        """
        heldout = None if self.heldout is None else _as_json_lines(self.heldout, folder / "eval-data")
        return replace(self, data=_as_json_lines(self.data, folder / "data"), heldout=heldout)

    def arguments(self, base_model: Path, base_model_name: str) -> list[str]:
        """Returns the arguments of the trainer's command line, with absolute paths.

        `base_model` is the folder of the base model.
        """
        options = {
            "base-model": base_model,
            "base-model-name": base_model_name,
            "data": self.data,
            "eval-data": self.heldout,
            "system": self.system,
            "out": self.out,
            "name": self.name,
            "method": self.method,
            **self.options,
        }
        return [part for name, value in options.items() for part in _written(name, value)]


def _as_json_lines(file: Path, folder: Path) -> Path:
    if file.suffix.lower() != ".csv":
        return file
    rows = [_training_row(json.loads(line)) if line else "" for line in text_of(file).split("\n")]
    if not any(rows):
        raise UsageError(f"{file} has no row with a text and its right output")
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{file.stem}.jsonl"
    made.write_text("\n".join(rows), "utf-8")  # each row on the line that it has in the CSV file
    return made


def _training_row(message: Mapping[str, str]) -> str:
    """Returns the line for a message, without columns that only say what it is about; empty without an output."""
    row = {name: message[name] for name in CSV_COLUMNS if name in message}
    return json.dumps(row, ensure_ascii=False) if len(row) == len(CSV_COLUMNS) else ""


def _written(name: str, value: object) -> Iterator[str]:
    if value is None or value is False:
        return
    yield f"--{name}"
    if value is not True:
        yield str(value.absolute() if isinstance(value, Path) else value)
