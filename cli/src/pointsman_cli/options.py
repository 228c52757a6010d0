"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[
    Path, typer.Option(help="Where models, state and logs are kept; made where it is missing.", show_default=True)
]
EnginePythonOption = Annotated[
    Path | None,
    typer.Option(
        help="The engine environment's python; else POINTSMAN_ENGINE_PYTHON, else that of .venv-engine beside HOME.",
        show_default=False,
    ),
]
