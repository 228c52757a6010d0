"""Makes options of the command line that have no default value in their help text."""

import typer
from typer.models import OptionInfo


def optional(
    metavar: str, explanation: str, *names: str, low: float | None = None, high: float | None = None
) -> OptionInfo:
    """Returns a typer option whose help shows no default value.

    `explanation` is its help, and `names` are its names, such as "--seed". `low` and `high` limit the value of an
    option that is a number; None: no limit.
    """
    option: OptionInfo = typer.Option(*names, metavar=metavar, help=explanation, min=low, max=high, show_default=False)
    return option
