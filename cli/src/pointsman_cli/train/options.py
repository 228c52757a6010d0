"""The options of `pointsman train`, by what they are about."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Method(str, Enum):  # noqa: UP042  # typer shows the values of such
    LORA = "lora"
    RSLORA = "rslora"
    DORA = "dora"
    QLORA = "qlora"
    DPO = "dpo"


class StopOn(str, Enum):  # noqa: UP042
    LOSS = "loss"
    METRIC = "metric"


NameOption = Annotated[str, typer.Option(help="The adapter's name: 1 to 64 of a-z, 0-9, - and _.")]
DataOption = Annotated[Path, typer.Option(help="Examples, one JSON object a line; pairs of answers for dpo.")]
OutOption = Annotated[
    Path | None, typer.Option(help="The folder that the adapter is written to; an older adapter there is replaced.")
]
HeldoutOption = Annotated[Path | None, typer.Option(help="Examples to measure by; else some of --data are held out.")]
SystemOption = Annotated[Path | None, typer.Option(help="A file with the system message of every example.")]
ParentOption = Annotated[
    str, typer.Option(metavar="FOLDER", help="An adapter to start from; with --on-server a registered version.")
]
MergedOption = Annotated[
    Path | None, typer.Option(help="A folder for the base model with the adapter merged in (dora: OUT/merged).")
]

MethodOption = Annotated[
    Method, typer.Option(help="dora cannot be served as an adapter: the merged model is; dpo learns from pairs.")
]
RankOption = Annotated[int, typer.Option(min=1, max=64, help="Of the LoRA; the engine has a limit.")]
EpochsOption = Annotated[int, typer.Option(min=1, help="At most.")]
MinutesOption = Annotated[float, typer.Option(min=0.1, help="Stops there, with what it has by then.")]
SeedOption = Annotated[int, typer.Option(min=0)]
RateOption = Annotated[float | None, typer.Option(min=1e-7, max=1, help="Else the trainer's own for the method.")]
BetaOption = Annotated[float | None, typer.Option(min=1e-6, help="Of dpo: how dear it is to leave the reference.")]

SamplesOption = Annotated[int | None, typer.Option(min=0, help="Held-out rows that are answered at the end.")]
ShotsOption = Annotated[
    int | None, typer.Option(min=0, help="Examples in the prompts that training has to beat; 0 measures none.")
]
PatienceOption = Annotated[
    int | None, typer.Option(min=0, help="Evaluations without a better one before it stops; 0: never.")
]
StopOnOption = Annotated[StopOn | None, typer.Option(help="What decides which weights are the best.")]
CheckOption = Annotated[
    bool, typer.Option("--check-only", help="Examine the data, show the first prompt as rendered, and end.")
]
EvaluateOption = Annotated[
    bool, typer.Option("--evaluate-only", help="Measure the adapter in --out, and write its report anew.")
]
CheckpointOption = Annotated[Path | None, typer.Option(help="A folder for the state of an unfinished run.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint, if there is one.")]

RegisterOption = Annotated[
    bool, typer.Option("--register/--no-register", help="Have a running lora-server load the result.")
]
AliasOption = Annotated[str, typer.Option(help="Move the alias NAME@WORD to the result; none is moved without it.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Move the alias even where prompting is as good on the held-out rows.")
]
LoraServerOption = Annotated[str, typer.Option(help="Its address; else that of the running `pointsman up`.")]
OnServerOption = Annotated[
    bool, typer.Option("--on-server", help="As a job of the lora-server, which goes on when this command is stopped.")
]
DetachOption = Annotated[bool, typer.Option("--detach", help="With --on-server: print the job's id and leave.")]
