"""`pointsman replay`: decides logged requests again with a new configuration, before it goes live."""

from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.lab import LabJob, SinceOption, config_folder, run_lab
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption, RedisOption, redis_url


def replay(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NEW_CONFIG", help="A configuration folder, or an example folder with a pointsman.yaml."
        ),
    ],
    since: SinceOption = "24h",
    redis: RedisOption = "",
    examples: Annotated[int, typer.Option(min=0, max=100, help="Number of changed requests to show.")] = 10,
    fail_if_changed: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Exit with code 1 if a larger share of the requests changes."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show which logged requests a new configuration would route differently, and how their cost would change.

    Uses the gateway's own classifier and router. A request whose text was not stored keeps its recorded task. Sends
    nothing to an engine and writes nothing.
    """
    at = DataDir.at(data_dir)
    url = redis_url(redis, at)
    if not url:
        raise UsageError("there is no request log to replay: nothing runs here, and no --redis was given")
    arguments = ["replay", str(config_folder(folder)), "--since", since, "--redis", url]
    arguments += ["--examples", str(examples)]
    if fail_if_changed is not None:
        arguments += ["--fail-if-changed", str(fail_if_changed)]
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))
