"""The command line -> what is to be trained, frozen."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything besides the data that decides the weights."""

    rank: int
    alpha: int
    learning_rate: float
    epochs: int
    tokens_per_step: int  # padding counted
    most_tokens: int  # of one row; longer ones are left out
    seed: int


@dataclass(frozen=True, slots=True)
class Job:
    base_model: Path
    base_model_name: str
    data: Path
    heldout: Path | None
    heldout_share: float
    system: Path | None
    out: Path
    name: str
    max_minutes: float
    samples: int
    threads: int | None  # None: as many as the process may use
    recipe: Recipe


def parse(arguments: Sequence[str] | None = None) -> Job:
    """Exits with code 2, as argparse does, when the arguments are wrong."""
    given = _parser().parse_args(arguments)
    return Job(
        base_model=given.base_model,
        base_model_name=given.base_model_name or given.base_model.absolute().name,
        data=given.data,
        heldout=given.heldout,
        heldout_share=0.1 if given.heldout_share is None else given.heldout_share,
        system=given.system,
        out=given.out.absolute(),
        name=given.name or given.out.absolute().name,
        max_minutes=given.max_minutes,
        samples=given.samples,
        threads=given.threads,
        recipe=Recipe(
            given.rank,
            given.alpha,
            given.learning_rate,
            given.epochs,
            given.tokens_per_step,
            given.most_tokens,
            given.seed,
        ),
    )


class _DefaultsShown(argparse.ArgumentDefaultsHelpFormatter):
    """Leaves out "(default: None)"."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pointsman_lora_server.training",
        description="Trains a LoRA adapter on conversations. Progress is one JSON object a line on stdout.",
        formatter_class=_DefaultsShown,
    )
    parser.add_argument("--base-model", type=Path, required=True, help="its Hugging Face folder")
    parser.add_argument("--base-model-name", help="what the adapter says it belongs to (default: the folder's name)")
    parser.add_argument("--data", type=Path, required=True, help="JSON lines: messages, or text and output")
    heldout = parser.add_mutually_exclusive_group()
    heldout.add_argument("--heldout", type=Path, help="JSON lines that are measured on and never learnt")
    heldout.add_argument("--heldout-share", type=_share, help="of the data, held out instead of a file (default: 0.1)")
    parser.add_argument("--system", type=Path, help="a text file: the system message of rows that have none")
    parser.add_argument("--out", type=Path, required=True, help="the adapter's folder; an older one is replaced")
    parser.add_argument("--name", help="the adapter's name (default: that of its folder)")
    parser.add_argument("--max-minutes", type=_positive_float, default=10.0, help="everything included")
    parser.add_argument("--samples", type=_count, default=8, help="held-out rows to answer at the end")
    parser.add_argument("--threads", type=_positive, help="of the CPU (default: all that the process may use)")
    parser.add_argument("--rank", type=_positive, default=4)
    parser.add_argument("--alpha", type=_positive, default=16)
    parser.add_argument("--learning-rate", type=_positive_float, default=2e-3, help="its peak")
    parser.add_argument("--epochs", type=_positive, default=3)
    parser.add_argument("--tokens-per-step", type=_positive, default=1000)
    parser.add_argument("--most-tokens", type=_positive, default=2048, help="of one row; longer ones are left out")
    parser.add_argument("--seed", type=_count, default=7)
    return parser


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


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value
