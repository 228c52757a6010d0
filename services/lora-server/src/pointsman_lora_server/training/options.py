"""The command line of the trainer, parsed into `TrainingOptions`."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pointsman_lora_server.training.methods import TrainingMethod, installed_methods, load_method
from pointsman_lora_server.training.processes import is_fsdp_requested, is_worker

DEFAULT_METHOD = "lora"
N = TypeVar("N", int, float)
STOP_ON_LOSS, STOP_ON_METRIC = STOP_ON = ("loss", "metric")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of a training run."""

    method: str
    rank: int
    alpha: int
    learning_rate: float
    """The peak learning rate."""
    epochs: int
    tokens_per_step: int
    """The largest number of tokens in one batch, padding included."""
    max_tokens: int
    """The largest number of tokens in one row, prompt and answer together; longer rows are left out."""
    seed: int
    beta: float
    """For DPO: the strength of the penalty for deviating from the reference model, in which training starts. Other
    methods ignore it."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How held-out rows are used to evaluate the adapter, during training and at the end."""

    samples: int
    """Number of held-out rows for which answers are generated at the end; fewer if the time limit requires it."""
    shots: int
    """Number of answered examples in each few-shot prompt to the base model, with which the adapter is compared; 0
    turns the comparison off."""
    evaluations: int
    """The largest number of evaluations during training."""
    stop_on: str
    """The measure by which the best weights are chosen: "loss", or "metric" (the share of answers that are exactly
    right)."""
    patience: int
    """Training stops after this number of evaluations in a row without an improvement; 0 disables this."""


@dataclass(frozen=True, slots=True)
class CheckpointOptions:
    """Where and how often an unfinished training run is saved, so that it can be resumed."""

    folder: Path | None
    seconds: float
    """The shortest time between two checkpoints, in seconds; 0 saves a checkpoint after each step."""
    resume: bool
    """Whether to continue from the checkpoint in the folder, if there is one."""

    @property
    def file(self) -> Path | None:
        return self.folder / "checkpoint.pt" if self.folder else None


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The options of one run of the trainer, from its command line; options that were not given have their defaults."""

    base_model: Path
    base_model_name: str
    data: Path
    heldout: Path | None
    heldout_share: float
    system: Path | None
    out: Path
    name: str
    parent: Path | None
    """The folder of the adapter with whose weights training starts; None starts with a new adapter."""
    parent_name: str
    merged_out: Path | None
    max_minutes: float
    min_epochs: float
    """The trainer fails without training if fewer epochs than this, and not all of `recipe.epochs`, fit into
    `max_minutes`."""
    max_rows: int | None
    """The largest number of rows to train on; if there are more, this many are chosen at random. None uses all rows."""
    threads: int | None
    """Number of CPU threads of each process; None divides the CPU cores available to the trainer equally among its
    processes."""
    processes: int
    """Number of processes among which each training step is divided. On GPUs, each process uses its own GPU."""
    fsdp: bool
    """Whether the base model's weights are divided among the processes, so that each needs less memory."""
    device: str
    """The device to train on: "auto" (a GPU if there is one), "cpu" or "cuda"."""
    nice: int
    check_only: bool
    evaluate_only: bool
    """Whether the existing adapter in the folder `out` is evaluated, and nothing is trained."""
    method: TrainingMethod
    recipe: Recipe
    evaluation: EvaluationOptions
    checkpoints: CheckpointOptions


def parse(arguments: Sequence[str] | None = None) -> TrainingOptions:
    """Parses the trainer's command line, by default `sys.argv`.

    Exits with code 2 and a message on stderr if an argument is wrong or does not suit the training method.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.resume and given.checkpoint is None:
        parser.error("--resume needs the --checkpoint folder that it goes on from")
    options = _to_options(given)
    if options.processes > 1 and options.method.learns_from_pairs:
        parser.error(f"--method {options.method.name} trains in one process: leave out --processes")
    if options.fsdp:
        _check_fsdp(options, parser)
    try:
        options.method.check_options(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def _check_fsdp(options: TrainingOptions, parser: argparse.ArgumentParser) -> None:
    method = options.method
    if options.processes == 1 and not is_worker():
        parser.error("--fsdp divides the base model among several processes: give --processes 2 or more")
    if method.base_in_4_bits or method.must_be_merged:
        parser.error(f"--method {method.name} needs the whole base model in each process: leave out --fsdp")
    if options.evaluate_only:
        parser.error("--evaluate-only uses one process: leave out --fsdp")
    if options.merged_out is not None:
        parser.error("--merged-out needs the whole base model in one process: leave out --fsdp")


def _to_options(given: argparse.Namespace) -> TrainingOptions:
    out, method = given.out.absolute(), given.method
    return TrainingOptions(
        base_model=given.base_model,
        base_model_name=given.base_model_name or given.base_model.absolute().name,
        data=given.data,
        heldout=given.eval_data,
        heldout_share=0.1 if given.heldout_share is None else given.heldout_share,
        system=given.system,
        out=out,
        name=given.name or out.name,
        parent=given.init_from,
        parent_name=given.init_from_name or (given.init_from.absolute().name if given.init_from else ""),
        merged_out=given.merged_out.absolute() if given.merged_out else None,
        max_minutes=given.max_minutes,
        min_epochs=given.min_epochs,
        max_rows=given.max_rows,
        threads=given.threads,
        processes=given.processes,
        fsdp=given.fsdp or is_fsdp_requested(),
        device=given.device,
        nice=given.nice,
        check_only=given.check_only,
        evaluate_only=given.evaluate_only,
        method=method,
        recipe=Recipe(
            method.name,
            given.rank,
            given.alpha,
            given.learning_rate or method.learning_rate,
            given.epochs,
            given.tokens_per_step,
            given.max_tokens,
            given.seed,
            given.beta,
        ),
        evaluation=EvaluationOptions(
            given.samples, given.baseline_shots, given.evaluations, given.stop_on, given.patience
        ),
        checkpoints=CheckpointOptions(given.checkpoint, given.checkpoint_seconds, given.resume),
    )


class _DefaultsShown(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the options' defaults in the help text, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_shown = action.default is not None and action.default is not False
        return super()._get_help_string(action) if is_shown else action.help


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pointsman_lora_server.training",
        description="Trains an adapter on conversations. Progress is reported on stdout, one JSON object a line.",
        formatter_class=_DefaultsShown,
    )
    for add in (_add_inputs, _add_recipe, _add_evaluation, _add_execution):
        add(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--base-model", type=Path, required=True, help="its Hugging Face folder")
    add("--base-model-name", help="recorded in the adapter (default: the folder's name)")
    add(
        "--data",
        type=Path,
        required=True,
        help="JSON lines: messages, or text and output; dpo: prompt, chosen, rejected",
    )
    add("--max-rows", type=_positive, help="train on at most so many rows, chosen at random (default: on all)")
    heldout = parser.add_mutually_exclusive_group()
    heldout.add_argument("--eval-data", type=Path, help="JSON lines that are evaluated and never learnt")
    heldout.add_argument(
        "--heldout-share", type=_share, help="fraction of the prompts to hold out instead of a file (default: 0.1)"
    )
    add("--system", type=Path, help="a text file: the system message for rows that have none")
    add("--init-from", type=Path, help="an adapter's folder to start from; its rank, alpha and layers are kept")
    add("--init-from-name", help="its name in the report (default: the folder's name)")
    add("--out", type=Path, required=True, help="the adapter's folder; an older one is replaced")
    add("--merged-out", type=Path, help="a folder for the base with the adapter merged in (dora: OUT/merged)")
    add("--name", help="the adapter's name (default: that of its folder)")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--method",
        type=_method,
        default=DEFAULT_METHOD,
        help=f"{', '.join(installed_methods())}, or module:attribute",
    )
    add("--rank", type=_positive, default=4)
    add("--alpha", type=_positive, default=16)
    add("--learning-rate", type=_positive_float, help="its peak (default: the method's: 2e-3; rslora 1e-3; dpo 2e-4)")
    add("--epochs", type=_positive, default=3)
    add("--tokens-per-step", type=_positive, default=1000)
    add("--max-tokens", type=_positive, default=2048, help="of one row; longer rows are left out")
    add("--beta", type=_positive_float, default=0.1, help="for dpo: the penalty for deviating from the reference model")
    add("--seed", type=_count, default=7)


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--samples", type=_count, default=32, help="held-out rows to answer at the end, as time allows")
    add("--baseline-shots", type=_count, default=3, help="examples in the few-shot prompts to beat; 0 measures none")
    add("--evaluations", type=_positive, default=4, help="maximum number during training; the last one is at its end")
    add("--stop-on", choices=STOP_ON, default=STOP_ON_LOSS, help="what determines the best weights")
    add("--patience", type=_count, default=0, help="stop after this many evaluations without an improvement; 0: never")
    add("--check-only", action="store_true", help="check the data, show the first prompt as rendered, and exit")
    add("--evaluate-only", action="store_true", help="evaluate the adapter in OUT and update its report")


def _add_execution(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--max-minutes", type=_positive_float, default=10.0, help="time limit of the whole run")
    add("--min-epochs", type=_seconds, default=1.0, help="train nothing if less than this fits into --max-minutes")
    add("--checkpoint", type=Path, help="a folder for the state of the unfinished run")
    add("--checkpoint-seconds", type=_seconds, default=30.0, help="between two checkpoints; 0: after each step")
    add("--resume", action="store_true", help="continue from the checkpoint, if there is one")
    add("--threads", type=_positive, help="CPU threads of each process (default: its share of all)")
    add("--processes", type=_positive, default=1, help="that share each step: as many as GPUs; the result is the same")
    add("--fsdp", action="store_true", help="divide the base model's weights among --processes, to need less memory")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--nice", type=_count, default=0, help="of the process; 19 is the lowest priority")


def _method(text: str) -> TrainingMethod:
    try:
        return load_method(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _number(kind: type[N], accepts: Callable[[N], bool], problem: str) -> Callable[[str], N]:
    """Returns a function for argparse's `type` that parses a number and rejects it if `accepts` returns False.

    The error message for a rejected number is "VALUE is " followed by `problem`.
    """

    def parse_number(text: str) -> N:
        value = kind(text)
        if not accepts(value):
            raise argparse.ArgumentTypeError(f"{text} is {problem}")
        return value

    parse_number.__name__ = kind.__name__  # which argparse shows for what is no number
    return parse_number


_positive = _number(int, lambda value: value >= 1, "below 1")
_count = _number(int, lambda value: value >= 0, "below 0")
_positive_float = _number(float, lambda value: 0 < value < math.inf, "not above 0")
_seconds = _number(float, lambda value: 0 <= value < math.inf, "below 0")
_share = _number(float, lambda value: 0 <= value < 1, "not from 0 to below 1")
