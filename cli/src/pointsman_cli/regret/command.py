"""`pointsman regret`: would another path have been the better choice?"""

import json
import time
from dataclasses import asdict
from typing import Annotated

import httpx
import typer
from rich.console import Console

from pointsman_cli.adapters.options import HERE, JsonOption
from pointsman_cli.errors import CommandError
from pointsman_cli.options import HomeOption
from pointsman_cli.regret.figures import Regrets, regrets
from pointsman_cli.regret.pages import page
from pointsman_cli.top.command import find
from pointsman_cli.top.scrape import parse

SECONDS = 2.0
"""For an answer."""


def regret(
    gateway: Annotated[str, typer.Option(help="Its HTTP door; else that of the running `pointsman up`.")] = "",
    in_json: JsonOption = False,
    home: HomeOption = HERE,
) -> None:
    """Show what the shadows of requests would have cost and scored beside the paths that were chosen.

    Of one gateway, since it was started. Left of each colon stands the chosen path, right of it the shadow. Regret is
    what the shadow would have spared (dollars in all) and by how much it was better (quality, mean of the scored).
    """
    found = look(find(gateway, "", "", home).gateway)
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
