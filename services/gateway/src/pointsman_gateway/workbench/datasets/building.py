"""`data`: makes the next version of a task's data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman_gateway.config.load import Config, ConfigError
from pointsman_gateway.config.schema import Flywheel
from pointsman_gateway.wiring.line import to_path
from pointsman_gateway.wiring.validators import to_validators
from pointsman_gateway.workbench.datasets.closed import closed_keys
from pointsman_gateway.workbench.datasets.gleaning import Terms, glean
from pointsman_gateway.workbench.datasets.lessons import Kept, read_lessons
from pointsman_gateway.workbench.datasets.rows import Pair, Row, Source, canonical
from pointsman_gateway.workbench.datasets.splitting import split
from pointsman_gateway.workbench.datasets.taught import read_taught
from pointsman_gateway.workbench.datasets.writing import Origin, Written, write
from pointsman_gateway.workbench.history import History

NOTHING_KEPT = Kept((), ())


@dataclass(frozen=True, slots=True)
class Wish:
    task: str
    root: Path
    taught: Path | None = None
    """What the teacher was asked for, if it was."""


def flywheel_of(config: Config, task: str) -> Flywheel:
    """Raises ConfigError."""
    if task not in config.tasks.tasks:
        raise ConfigError(f"there is no task '{task}'; known: {', '.join(sorted(config.tasks.tasks))}")
    flywheel = config.tasks.tasks[task].flywheel
    if flywheel is None:
        raise ConfigError(f"tasks.yaml: task '{task}' has no flywheel; write flywheel: {{student: ..., teacher: ...}}")
    return flywheel


async def build(config: Config, history: History | None, wish: Wish) -> Written:
    """`history` is None where there is no Redis: examples and what was taught are all then. Raises ConfigError."""
    flywheel = flywheel_of(config, wish.task)
    kept = await read_lessons(history, config.tasks.learning, wish.task) if history else NOTHING_KEPT
    terms = Terms(wish.task, flywheel.teacher, flywheel.data.least_rating)
    gleaned = [glean(lesson, terms) for lesson in kept.lessons]
    dropped = Counter(one.why_not for one in gleaned if one.why_not)
    taught, refused = _taught(config, wish)
    if refused:
        dropped["refused by a validator"] += refused
    rows = [*_examples(config, wish.task, flywheel), *taught, *(row for one in gleaned for row in one.rows)]
    pairs: list[Pair] = [pair for one in gleaned for pair in one.pairs]
    closed = closed_keys(config.folder / flywheel.heldout) if flywheel.heldout else set()
    data = split(rows, pairs, closed, flywheel.data.heldout_share)
    origin = Origin(
        task=wish.task,
        configuration=config.digest,
        consent=_consent(config, kept),
        dropped=dict(sorted((dropped + Counter(data.dropped)).items())),
        withdrawn=len(kept.withdrawn),
        collections=to_path(flywheel.teacher, config.paths.paths[flywheel.teacher], config).collections,
    )
    return write(data, origin, wish.root)


def _taught(config: Config, wish: Wish) -> tuple[Sequence[Row], int]:
    if wish.taught is None:
        return (), 0
    return read_taught(wish.taught, to_validators(wish.task, config.tasks.tasks[wish.task]))


def _examples(config: Config, task: str, flywheel: Flywheel) -> list[Row]:
    if not flywheel.data.examples:
        return []
    return [
        Row((("user", example.text),), canonical(example.output), Source.EXAMPLE)
        for example in config.examples[task]
        if example.output is not None
    ]


def _consent(config: Config, kept: Kept) -> dict[str, Any]:
    learning = config.tasks.learning
    tenants = sorted({lesson.tenant for lesson in kept.lessons if lesson.tenant})
    return {"tenants": tenants, "without_keys": bool(learning and learning.without_keys)}
