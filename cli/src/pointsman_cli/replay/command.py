"""`pointsman replay`: recorded requests against a new configuration, before it is swapped in."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.classifier import workbench
from pointsman_cli.classifier.options import JsonOption, RedisOption, SinceOption
from pointsman_cli.classifier.workbench import Job
from pointsman_cli.errors import Misused
from pointsman_cli.home import Home
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption


def replay(
    folder: Annotated[
        Path, typer.Argument(metavar="NEW_CONFIG_FOLDER", help="A configuration, or an example that has one.")
    ],
    since: SinceOption = "24h",
    redis: RedisOption = "",
    examples: Annotated[int, typer.Option(min=0, max=100, help="How many of the changed requests to show.")] = 10,
    fail_if_changed: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Exit with 1 where more of the requests than this change."),
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = Path(".pointsman"),
) -> None:
    """Show which of the journal's requests a new configuration would decide otherwise, and what that would cost.

    The same classification and the same router as the gateway's decide. Requests whose text was not kept keep their
    recorded task. Nothing is sent to an engine, nothing is written.
    """
    at = Home.at(home)
    url = workbench.redis_of(redis, at)
    if not url:
        raise Misused("there is no journal to replay: nothing runs here, and no --redis was given")
    arguments = ["replay", str(workbench.config_folder(folder)), "--since", since, "--redis", url]
    arguments += ["--examples", str(examples)]
    if fail_if_changed is not None:
        arguments += ["--fail-if-changed", str(fail_if_changed)]
    run_interruptibly(workbench.run(Job(arguments, at, as_json)))
