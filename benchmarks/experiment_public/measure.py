"""Runs cells: trains what is missing, starts the services, sends the test rows, and stores the answers."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.experiment.folder import ROOT, Row, write_rows
from benchmarks.experiment.services import evaluate, run_services
from benchmarks.experiment_public import baselines
from benchmarks.experiment_public.cells import FEW_SHOTS, MAX_TOKENS, PASSAGES, Cell
from benchmarks.experiment_public.folder import Model, write_folder
from benchmarks.experiment_public.result_files import ResultFolder, read_answers
from benchmarks.experiment_public.sets import PublicSet, load_set
from benchmarks.experiment_public.training import Passages, epochs, search_passages, train, training_facts

WORK = ROOT / ".pointsman/experiment-public"
RESULTS = Path(__file__).parent / "results"
CONCURRENCY = 48
_LONG_PROMPTS, _LONG_PROMPTS_CONCURRENCY = ("nearest_16", "nearest_32"), 8
"""Paths whose prompts are hardly ever cached, and how many of their requests are sent at once. With 48 on two cores,
the last ones waited longer for a first token than the gateway's timeout."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings that all cells of a run have in common."""

    data: Path
    model: Model
    limit: int | None = None
    """How many of the test rows are used, for a trial, whose results are stored separately; None: all."""

    @property
    def model_name(self) -> str:
        return Path(self.model.name).name

    @property
    def work(self) -> Path:
        name = self.model_name if self.limit is None else f"{self.model_name}-limit-{self.limit}"
        return WORK / name

    @property
    def results(self) -> ResultFolder:
        return ResultFolder(RESULTS / self.model_name if self.limit is None else self.work / "results")

    def load(self, name: str) -> PublicSet:
        public = load_set(name, self.data)
        return replace(public, test=public.test[: self.limit])


def run_together(cells: Sequence[Cell], public: PublicSet, setting: Setting) -> Generator[Cell, None, None]:
    """Runs cells that `can_run_together`, or continues them, with one start of the services; yields each cell when its
    results are stored. Raises CannotMeasure or CalledProcessError.
    """
    if cells[0].is_baseline:
        for cell in cells:
            setting.results.write(cell, public.test, baselines.answer(cell, public, public.test), None)
            yield cell
        return
    trained = {cell: adapter_of(cell.adapter, public, setting) if cell.is_trained else None for cell in cells}
    served = {cell: None if cell.is_fully_tuned else weights for cell, weights in trained.items()}
    model = _tuned(trained[cells[0]], setting.model) if cells[0].is_fully_tuned else setting.model
    example = write_folder(setting.work / "example", served, {cells[0].set: public}, model)
    with run_services(example, setting.work / "home") as url:
        for cell, weights in trained.items():
            answers = read_answers(_ask(cell, public.test, url, setting))
            setting.results.write(cell, public.test, answers, training_facts(weights) if weights else None)
            yield cell


def _tuned(folder: Path | None, base: Model) -> Model:
    """Returns the model in `folder`, of which all weights were trained; its tokens have the base model's prices."""
    assert folder
    return Model(str(folder), base.prices, tuned_from=base.name)


def can_run_together(cell: Cell, first: Cell, setting: Setting) -> bool:
    """Returns whether services that are configured for `first` can answer the requests of `cell` too.

    Both must have the same set, and the same training rows if `cell` shows examples, because one configuration has one
    set of examples. Both must have the same model, and the adapter of `cell` must be there already.
    """
    same_examples = (cell.rows, cell.seed) == (first.rows, first.seed) or not (cell.shows_examples or cell.is_baseline)
    has_adapter = not cell.is_trained or is_trained(cell, setting)
    same_kind = (cell.set, cell.is_baseline) == (first.set, first.is_baseline)
    same_model = not (cell.is_fully_tuned or first.is_fully_tuned)
    return same_kind and same_model and same_examples and has_adapter


def adapter_of(cell: Cell, public: PublicSet, setting: Setting) -> Path:
    """Returns the folder of the cell's adapter, or of its fully tuned model, and trains it if it is missing. Trials
    with few test rows use the adapters of complete runs.
    """
    work = replace(setting, limit=None).work
    if not is_trained(cell, setting):
        example = write_folder(setting.work / "example", {cell: None}, {cell.set: public}, setting.model)
        train(cell, public, example, setting.model.source, _passages(cell, public, example, setting), work)
    return work / "adapters" / str(cell)


def is_trained(cell: Cell, setting: Setting) -> bool:
    """Returns whether the cell's adapter is there."""
    return (replace(setting, limit=None).work / "adapters" / str(cell.adapter) / "training.json").is_file()


def _passages(cell: Cell, public: PublicSet, example: Path, setting: Setting) -> Passages:
    if not cell.uses_passages:
        return {}
    rows = [*public.training_rows(cell.rows, cell.seed), *public.validation]
    with run_services(example, setting.work / "home"):
        return search_passages(setting.work / "home", rows)


def _ask(cell: Cell, test: Sequence[Row], url: str, setting: Setting) -> Path:
    """Sends the test rows through the running gateway; returns the file of answers."""
    rows = [{key: row[key] for key in ("id", "text", "output")} for row in test]
    dataset = write_rows(rows, setting.work / "data" / f"{cell.set}-test.jsonl")
    answers = setting.work / "answers" / f"{cell}.jsonl"
    concurrency = _LONG_PROMPTS_CONCURRENCY if cell.path in _LONG_PROMPTS else CONCURRENCY
    evaluate(
        dataset, url, setting.work / "home", answers, "--task", cell.set, "--paths", cell.path_name,
        "--concurrency", str(concurrency), "--examples", "0",
    )  # fmt: skip
    return answers


# Measured on two cores without a GPU, with SmolLM2-135M.
_TRAINED, _READ, _GENERATED = 450.0, 280.0, 138.0
"""Tokens per second: in training, of prompts that are not cached, and of answers, with 16 requests at once. With more
at once it is faster, so the estimated times are too long rather than too short."""
_START_MINUTES = 1.0
_TEXT = {"clinc150": 36, "snips": 36, "xquad": 40}
_OUTPUT = {"clinc150": 5, "snips": 42, "xquad": 6}
_PASSAGE = 190
"""Mean number of tokens of a request with its markers, of an answer, and of a passage."""
_FULL_FINE_TUNE_FACTOR = 1.5
"""How many times longer a training of all weights takes, because it computes their gradients too."""
_UNTRAINED_FACTOR = 2
"""How many times longer answers are without training and without examples."""


def estimated_minutes(cell: Cell, public: PublicSet, setting: Setting) -> float:
    """Returns the minutes of a cell on two cores without a GPU."""
    if cell.is_baseline:
        return 0.1
    prompt, output = _TEXT[cell.set] + _added(cell), float(_OUTPUT[cell.set])
    if not cell.is_trained and not cell.path.startswith("nearest"):
        output = min(MAX_TOKENS[cell.set], output * _UNTRAINED_FACTOR)
    if cell.path == "chain_of_thought":
        output = 150
    asked = len(public.test) * (prompt / _READ + output / _GENERATED)
    trained = 0.0
    if cell.is_trained and not is_trained(cell, setting):
        tokens = _TEXT[cell.set] + _added(cell.adapter) + output
        factor = _FULL_FINE_TUNE_FACTOR if cell.is_fully_tuned else 1.0
        trained = factor * min(cell.rows, len(public.pool)) * epochs(cell.adapter) * tokens / _TRAINED
    return _START_MINUTES + (asked + trained) / 60


def _added(cell: Cell) -> int:
    """Returns the number of tokens that strategies add to a prompt and that are in no cache."""
    way, _, shots = cell.path.partition("_")
    example = _TEXT[cell.set] + _OUTPUT[cell.set]
    if way == "nearest":
        return int(shots) * example
    shown = FEW_SHOTS * example if "few_shot" in cell.path else 0
    return shown + (PASSAGES * _PASSAGE if cell.uses_passages else 0)


def state(cell: Cell, public: PublicSet, setting: Setting) -> str:
    """Returns the cell's state: "done", "begun" if some answers are stored, "trained" if the adapter exists, or
    "missing".
    """
    if setting.results.is_done(cell, public.test):
        return "done"
    if (setting.work / "answers" / f"{cell}.jsonl").is_file():
        return "begun"
    return "trained" if is_trained(cell, setting) else "missing"
