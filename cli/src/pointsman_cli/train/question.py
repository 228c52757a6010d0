"""Asks at a terminal how to continue a training that does not fit into its time limit."""

import os
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass, replace

import typer

from pointsman_cli.errors import CommandError
from pointsman_cli.train.options import TrainingJob
from pointsman_cli.train.progress import TooShort

STOP = "stop"


@dataclass(frozen=True, slots=True)
class TimeShortage:
    """The reason why the trainer stopped before training: too little of the training fits into its time limit."""

    found: TooShort
    """How much would fit into the limit, and how long the whole training would take."""
    error: str
    """The trainer's error message, which says what the user can do."""


@dataclass(frozen=True, slots=True)
class TrainingChoice:
    """One of the answers to the question how to continue a training, and the trainer's options that it sets."""

    label: str
    """The text of this choice in the question; its first letter is enough as an answer."""
    options: Mapping[str, int]
    """The options of the trainer that this choice sets, such as "max-minutes", with their values."""

    @property
    def written(self) -> str:
        return " ".join(f"--{option} {value}" for option, value in self.options.items())


def can_ask() -> bool:
    """Returns whether a user can read and answer a question at the terminal.

    Both standard input and output must be a terminal, and this process must not be in the background, where the system
    would stop it as soon as it reads.
    """
    return sys.stdin.isatty() and sys.stdout.isatty() and not _is_in_background()


def _is_in_background() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:  # a terminal that controls another session stops nobody here
        return False


def ask_how_to_go_on(job: TrainingJob, shortage: TimeShortage) -> TrainingJob:
    """Asks the user how to continue the training, and returns the job with the options that the user has chosen.

    Input that was typed before the question is ignored. Raises CommandError with the trainer's error if the user
    chooses to stop, which is the default.
    """
    found = shortage.found
    choices = choices_for(found)
    labels = [f"{STOP} (default)", *(choice.label for choice in choices.values())]
    question = (
        f"about {found.minutes} minutes here for {found.epochs} epochs; --max-minutes {found.max_minutes:g} trains "
        f"{found.epochs_within:g} epochs: {', '.join(labels[:-1])}, or {labels[-1]}?"
    )
    while True:
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
        answer = typer.prompt(question, default=STOP, show_default=False, prompt_suffix=" ").strip().lower()
        if answer and STOP.startswith(answer):
            raise CommandError(f"nothing was trained: {shortage.error}")
        for label, choice in choices.items():
            if answer and label.startswith(answer):
                again = "; give them again with --resume" if job.options.get("checkpoint") else ""
                typer.echo(f"training with the options {choice.written}{again}")
                return replace(job, options={**job.options, **choice.options})
        question = f"answer with {', '.join([STOP, *choices])}, or its first letter:"


def choices_for(found: TooShort) -> Mapping[str, TrainingChoice]:
    """Returns the answers from which the user chooses how to continue a training, by the answers' names.

    "longer" is always among them. "go on" and "fewer rows" are left out if nothing would fit into the time limit. Each
    allows the training to end within an epoch, since the next run may be slower.
    """
    part = {"min-epochs": 0}
    choices = {"longer": TrainingChoice(f"longer ({found.minutes} minutes)", {"max-minutes": found.minutes, **part})}
    if found.epochs_within:
        choices = {"go on": TrainingChoice("go on", part), **choices}
    if found.rows_within:
        rows = {"max-rows": found.rows_within, **part}
        choices["fewer rows"] = TrainingChoice(f"fewer rows ({found.rows_within})", rows)
    return choices
