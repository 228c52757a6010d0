"""The cells of the experiment: a set, a path, a number of training rows and a seed; the most informative ones first."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.experiment_public.sets import TRAINING_ROWS

ALL_ROWS = TRAINING_ROWS
"""The number of training rows; XQuAD has fewer, and uses all of them."""
CURVE_ROWS = (30, 100, 300)
SEEDS = (1, 2, 3)
BASELINES = ("majority", "tfidf", "nearest")
LABEL_SETS = ("clinc150", "snips")
SETS = (*LABEL_SETS, "xquad")

PASSAGES = 2
"""Number of passages in the prompt of a path with retrieval."""
FEW_SHOTS = 4
"""Number of examples in the prompt, for an adapter that is trained with examples, and for paths that also have
passages."""
_SHOTS = (8, 16, 32)
"""32 is the largest number that the strategy `few_shot` shows."""
MAX_TOKENS = {"clinc150": 16, "snips": 120, "xquad": 32}
_STEPS_TOKENS = 200

FULL_FINE_TUNE = "full_fine_tune"
"""The name of the path whose model is the base model after a training of all its weights. An engine serves it alone."""


@dataclass(frozen=True, slots=True)
class Cell:
    set: str
    path: str
    rows: int = ALL_ROWS
    """Number of training rows, or of examples that a prompt may show."""
    seed: int = 1

    def __str__(self) -> str:
        return f"{self.set}-{self.path}-{self.rows}-{self.seed}"

    @property
    def path_name(self) -> str:
        """The path's name in the gateway's configuration."""
        name = f"{self.set}_{self.path}"
        return name if (self.rows, self.seed) == (ALL_ROWS, 1) else f"{name}_{self.rows}_{self.seed}"

    @property
    def is_baseline(self) -> bool:
        return self.path in BASELINES

    @property
    def is_trained(self) -> bool:
        return "lora" in self.path or self.is_fully_tuned

    @property
    def is_fully_tuned(self) -> bool:
        return self.path == FULL_FINE_TUNE

    @property
    def shows_examples(self) -> bool:
        """Returns whether prompts show answered examples, which are training rows."""
        return self.path.startswith(("nearest_", "fixed_")) or "few_shot" in self.path

    @property
    def uses_passages(self) -> bool:
        return self.path.endswith("rag")

    @property
    def adapter(self) -> "Cell":
        """The cell whose adapter answers: that of `lora` if this cell serves an adapter with other prompts than it was
        trained on.
        """
        return Cell(self.set, "lora", self.rows, self.seed) if self.path == "lora_rag" else self


def all_cells() -> list[Cell]:
    """Returns the plan of the experiment: every cell once, in the order in which they run."""
    return list(dict.fromkeys(_ordered()))


def _ordered() -> Iterator[Cell]:
    for name in SETS:
        yield from (Cell(name, path) for path in BASELINES)
        yield from (Cell(name, path, rows) for path in BASELINES[1:] for rows in CURVE_ROWS)
    yield from (Cell(name, "lora") for name in SETS)
    yield from (Cell("xquad", path) for path in ("rag", "raft_lora_rag", "few_shot_rag"))
    yield from (Cell(name, f"nearest_{_SHOTS[0]}") for name in SETS)
    for path in ("zero_shot", "guided"):
        yield from (Cell(name, path) for name in SETS)
    yield from (Cell(name, "lora_few_shot") for name in LABEL_SETS)
    yield from (Cell(name, FULL_FINE_TUNE) for name in SETS)
    yield from (Cell(name, "lora", rows) for name in SETS for rows in CURVE_ROWS)
    yield from (Cell(name, f"nearest_{_SHOTS[0]}", rows) for name in SETS for rows in CURVE_ROWS)
    yield Cell("xquad", "lora_rag")
    yield from (Cell(name, f"fixed_{_SHOTS[0]}") for name in SETS)
    yield from (Cell(name, path, seed=seed) for seed in SEEDS[1:] for name, path in HEADLINES)
    for shots in _SHOTS[1:]:
        yield from (Cell(name, f"{way}_{shots}") for way in ("fixed", "nearest") for name in LABEL_SETS)
    yield from (Cell(name, "chain_of_thought") for name in SETS)


HEADLINES = (
    *((name, "lora") for name in SETS),
    ("xquad", "raft_lora_rag"),
    *((name, f"nearest_{_SHOTS[0]}") for name in SETS),
)
"""Sets and paths that are measured with every seed. `lora_few_shot` is not: its trainings take half of all the time."""


def path_config(cell: Cell, labels: tuple[str, ...], slots: tuple[str, ...]) -> dict[str, Any]:
    """Returns the path's entry in the gateway's configuration, without model and adapter."""
    length = _STEPS_TOKENS if cell.path == "chain_of_thought" else MAX_TOKENS[cell.set]
    limits = {"max_tokens": length, "structured_max_tokens": length, "temperature": 0}
    form = _form(cell.set, labels, slots) if cell.path == "guided" else {}
    return {"strategies": _strategies(cell), **limits, **form}


def _strategies(cell: Cell) -> list[dict[str, Any]]:
    retrieval = {"retrieval": {"collection": "paragraphs", "top_k": PASSAGES, "prompt": "passages"}}
    few_shot = {"task": cell.set, "count": FEW_SHOTS}
    way, _, shots = cell.path.partition("_")
    if way in ("fixed", "nearest"):
        selection = "fixed" if way == "fixed" else "knn"
        return [{"few_shot": {"task": cell.set, "count": int(shots), "selection": selection, "prompt": cell.set}}]
    known: dict[str, list[dict[str, Any]]] = {
        "chain_of_thought": [{"chain_of_thought": {"prompt": f"{cell.set}_steps"}}],
        "rag": [{"zero_shot": {"prompt": "xquad_passages"}}, retrieval],
        "few_shot_rag": [{"few_shot": {**few_shot, "selection": "fixed", "prompt": "xquad_passages"}}, retrieval],
        "lora": [],
        FULL_FINE_TUNE: [],
        "lora_few_shot": [{"few_shot": few_shot}],
        "raft_lora_rag": [retrieval],
        "lora_rag": [retrieval],
    }
    return known.get(cell.path, [{"zero_shot": {"prompt": cell.set}}])


def _form(name: str, labels: tuple[str, ...], slots: tuple[str, ...]) -> dict[str, Any]:
    """Returns the JSON Schema to which guided decoding restricts the answers."""
    if name == "clinc150":
        return {"answers": list(labels)}
    text = {"type": "string", "maxLength": 100}
    fields: Mapping[str, Any] = {"answer": text}
    if name == "snips":
        known = {"type": "object", "properties": dict.fromkeys(slots, text), "additionalProperties": False}
        fields = {"intent": {"enum": list(labels)}, "slots": known}
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}}
