"""`pointsman regret`: would another path have been the better choice?"""

import json
import time
from dataclasses import asdict
from typing import Annotated

import httpx
import typer
from rich.console import Console

from pointsman_cli.errors import CommandError
from pointsman_cli.options import DEFAULT_DATA_DIR, DEFAULT_URL, DataDirOption, JsonOption
from pointsman_cli.regret.figures import Regrets, regrets
from pointsman_cli.regret.pages import page
from pointsman_cli.top.command import find
from pointsman_cli.top.scrape import parse

SECONDS = 2.0
"""For an answer."""


def regret(
    gateway: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help=f"The gateway; default: the running `pointsman up`, then {DEFAULT_URL}.",
            show_default=False,
        ),
    ] = "",
    in_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Compare shadow requests with the paths that were chosen: cost, latency and quality.

    The figures are of one gateway since its start, shown as chosen : shadow. Regret is what the shadow path would have
    saved (total dollars) and by how much its answers were better (mean quality of the scored pairs).
    """
    found = look(find(gateway, "", "", data_dir).gateway)
    if in_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        Console(highlight=False).print(page(found))


def look(url: str) -> Regrets:
    """Raises CommandError."""
    try:
        answer = httpx.get(url, timeout=SECONDS, trust_env=False, headers={"accept": "text/plain"}).raise_for_status()
        return regrets(parse(answer.text, time.monotonic(), ("pointsman_",)))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise CommandError(f"{url} cannot be read: {error or type(error).__name__}") from error
