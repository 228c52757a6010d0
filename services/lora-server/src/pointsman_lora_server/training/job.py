"""The command line -> what is to be trained, frozen."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LORA, RSLORA, DORA, QLORA, DPO = METHODS = ("lora", "rslora", "dora", "qlora", "dpo")

# Peaks that suit rank 4 and alpha 16. rsLoRA scales by alpha / sqrt(rank) instead of alpha / rank, twice as much there.
LEARNING_RATES = {LORA: 2e-3, RSLORA: 1e-3, DORA: 2e-3, QLORA: 2e-3, DPO: 2e-4}

LOSS, METRIC = STOP_ON = ("loss", "metric")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides the data that decides the weights."""

    method: str
    rank: int
    alpha: int
    learning_rate: float
    epochs: int
    tokens_per_step: int  # padding counted
    most_tokens: int  # of one row; longer ones are left out
    seed: int
    beta: float  # DPO's: how dear it is to leave the reference


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How held-out rows are used, during training and at the end."""

    samples: int  # held-out rows that are answered at the end
    shots: int  # answered examples in the prompts that training has to beat; 0: these are not measured
    evaluations: int  # during training, at most
    stop_on: str
    patience: int  # evaluations without a better one before training stops; 0: it never does


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """Where the state of an unfinished run is kept."""

    folder: Path | None
    seconds: float  # between two checkpoints
    resume: bool

    @property
    def file(self) -> Path | None:
        return self.folder / "checkpoint.pt" if self.folder else None


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    base_model: Path
    base_model_name: str
    data: Path
    heldout: Path | None
    heldout_share: float
    system: Path | None
    out: Path
    name: str
    parent: Path | None  # an adapter's folder to start from
    parent_name: str
    merged_out: Path | None
    max_minutes: float
    threads: int | None  # None: as many as the process may use
    device: str
    nice: int
    check_only: bool
    evaluate_only: bool  # the adapter in `out`
    recipe: Recipe
    measuring: EvaluationOptions
    keeping: CheckpointOptions


def parse(arguments: Sequence[str] | None = None) -> TrainingOptions:
    """Exits with code 2, as argparse does, when the arguments are wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.resume and given.checkpoint is None:
        parser.error("--resume needs the --checkpoint folder that it goes on from")
    if given.method == QLORA and given.merged_out is not None:
        parser.error("--merged-out needs the whole base model, and qlora trains on one in 4 bits")
    if given.evaluate_only and given.method == DPO:
        parser.error("--evaluate-only reads rows with one answer; --method dpo has pairs")
    out = given.out.absolute()
    return TrainingOptions(
        base_model=given.base_model,
        base_model_name=given.base_model_name or given.base_model.absolute().name,
        data=given.data,
        heldout=given.heldout,
        heldout_share=0.1 if given.heldout_share is None else given.heldout_share,
        system=given.system,
        out=out,
        name=given.name or out.name,
        parent=given.parent,
        parent_name=given.parent_name or (given.parent.absolute().name if given.parent else ""),
        merged_out=given.merged_out.absolute() if given.merged_out else None,
        max_minutes=given.max_minutes,
        threads=given.threads,
        device=given.device,
        nice=given.nice,
        check_only=given.check_only,
        evaluate_only=given.evaluate_only,
        recipe=Recipe(
            given.method,
            given.rank,
            given.alpha,
            given.learning_rate or LEARNING_RATES[given.method],
            given.epochs,
            given.tokens_per_step,
            given.most_tokens,
            given.seed,
            given.beta,
        ),
        measuring=EvaluationOptions(
            given.samples, given.baseline_shots, given.evaluations, given.stop_on, given.patience
        ),
        keeping=CheckpointOptions(given.checkpoint, given.checkpoint_seconds, given.resume),
    )


class _DefaultsShown(argparse.ArgumentDefaultsHelpFormatter):
    """Leaves out "(default: None)" and "(default: False)"."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pointsman_lora_server.training",
        description="Trains an adapter on conversations. Progress is one JSON object a line on stdout.",
        formatter_class=_DefaultsShown,
    )
    for add in (_add_material, _add_recipe, _add_measuring, _add_running):
        add(parser)
    return parser


def _add_material(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-model", type=Path, required=True, help="its Hugging Face folder")
    add("--base-model-name", help="what the adapter says it belongs to (default: the folder's name)")
    add("--data", type=Path, required=True, help="JSON lines: messages, or text and output; for dpo see preferences.py")
    heldout = parser.add_mutually_exclusive_group()
    heldout.add_argument("--heldout", type=Path, help="JSON lines that are measured on and never learnt")
    heldout.add_argument("--heldout-share", type=_share, help="of the prompts, instead of a file (default: 0.1)")
    add("--system", type=Path, help="a text file: the system message of rows that have none")
    add("--parent", type=Path, help="an adapter's folder to start from; its rank, alpha and layers are kept")
    add("--parent-name", help="what the report calls it (default: the folder's name)")
    add("--out", type=Path, required=True, help="the adapter's folder; an older one is replaced")
    add("--merged-out", type=Path, help="a folder for the base with the adapter merged in (dora: OUT/merged)")
    add("--name", help="the adapter's name (default: that of its folder)")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--method", choices=METHODS, default=LORA, help="dora can be served merged only, see --merged-out")
    add("--rank", type=_positive, default=4)
    add("--alpha", type=_positive, default=16)
    add("--learning-rate", type=_positive_float, help="its peak (default: 2e-3; rslora 1e-3; dpo 2e-4)")
    add("--epochs", type=_positive, default=3)
    add("--tokens-per-step", type=_positive, default=1000)
    add("--most-tokens", type=_positive, default=2048, help="of one row; longer ones are left out")
    add("--beta", type=_positive_float, default=0.1, help="of dpo: how dear it is to leave the reference")
    add("--seed", type=_count, default=7)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--samples", type=_count, default=32, help="held-out rows to answer at the end, as time allows")
    add("--baseline-shots", type=_count, default=3, help="nearest examples in the prompts to beat; 0 measures none")
    add("--evaluations", type=_positive, default=4, help="during training, at most; the last one at its end")
    add("--stop-on", choices=STOP_ON, default=LOSS, help="what decides which weights are the best")
    add("--patience", type=_count, default=0, help="evaluations without a better one, then it stops; 0: never")
    add("--check-only", action="store_true", help="examine the data, show the first prompt as rendered, and end")
    add("--evaluate-only", action="store_true", help="measure the adapter in OUT and write its report anew")


def _add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--max-minutes", type=_positive_float, default=10.0, help="everything included")
    add("--checkpoint", type=Path, help="a folder for the state of the unfinished run")
    add("--checkpoint-seconds", type=_seconds, default=30.0, help="between two checkpoints; 0: after each step")
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    add("--threads", type=_positive, help="of the CPU (default: all that the process may use)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--nice", type=_count, default=0, help="of the process: 19 lets all others go first")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value
