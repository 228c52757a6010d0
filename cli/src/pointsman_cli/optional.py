"""An option that is unset by default."""

import typer
from typer.models import OptionInfo


def optional(
    metavar: str, explanation: str, *names: str, low: float | None = None, high: float | None = None
) -> OptionInfo:
    """Returns an option, a number from `low` to `high` if these are given, whose help shows no default value."""
    option: OptionInfo = typer.Option(*names, metavar=metavar, help=explanation, min=low, max=high, show_default=False)
    return option
