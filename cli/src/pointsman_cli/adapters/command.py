"""`pointsman adapters`: what there is, where aliases point, how many engines hold it, and what was changed."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pointsman.v1 import lora_server_pb2 as pb

from pointsman_cli.adapters import calls, pages, placements
from pointsman_cli.adapters.freshness import freshness
from pointsman_cli.adapters.options import (
    HERE,
    AdapterArgument,
    AliasArgument,
    AuthorOption,
    ExpectedOption,
    JsonOption,
    LoraServerOption,
    VersionArgument,
    lora_server_address,
    who_asks,
)
from pointsman_cli.adapters.watching import watch
from pointsman_cli.errors import Misused
from pointsman_cli.example import Adapter
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.options import HomeOption
from pointsman_cli.registering import Origin
from pointsman_cli.registering import register as have_registered

ForceOption = Annotated[
    bool, typer.Option("--force", help="Move the alias even where the evaluation says that prompting is as good.")
]


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="See the adapters, register them, and move aliases between their versions.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("list")(list_adapters)
    for command in (
        show,
        register,
        alias,
        canary,
        rollback,
        place,
        pin,
        unpin,
        retire,
        delete,
        history,
        freshness,
        watch,
    ):
        app.command()(command)
    return app


def list_adapters(
    name: AdapterArgument = "", as_json: JsonOption = False, lora_server: LoraServerOption = "", home: HomeOption = HERE
) -> None:
    """Show the versions, newest first, how each stands with the engine, and where the aliases point."""
    found = run_interruptibly(calls.list_adapters(lora_server_address(lora_server, home), name))
    if as_json:
        _print_json(pages.list_as_json(found))
    else:
        pages.show(pages.adapters_page(found.versions, found.aliases, found.placements))


def show(
    version: Annotated[str, typer.Argument(help="A version, or an alias.")],
    as_json: JsonOption = False,
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """Show all that is known of one version: its manifest, how it stands, and why it failed."""
    request = pb.GetAdapterRequest(version=version)
    found = _ask(lora_server, home, lambda server: server.Get(request, timeout=calls.SECONDS))
    if as_json:
        _print_json(pages.version_as_json(found))
    else:
        pages.show(pages.version_page(found))


def register(
    name: Annotated[str, typer.Argument(help="The adapter's: 1 to 64 of a-z, 0-9, - and _.")],
    folder: Annotated[
        Path,
        typer.Argument(help="With adapter_config.json and adapter_model.safetensors; on the lora-server's machine."),
    ],
    alias: Annotated[str, typer.Option(metavar="WORD", help="Then move NAME@WORD to it; none without it.")] = "",
    fact: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of its making; may be repeated.")] = None,
    parent: Annotated[str, typer.Option(metavar="VERSION", help="What its training started from.")] = "",
    force: ForceOption = False,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """Have the lora-server check, keep, try and load an adapter; takes a minute where its trial starts cold."""
    if not folder.is_absolute() and not folder.is_dir():
        raise Misused(f"{folder} is no folder here; name one on the lora-server's machine by its whole path")
    facts = dict(_fact(each) for each in fact or ())
    work = have_registered(
        lora_server_address(lora_server, home),
        Adapter(name, folder, alias),
        facts,
        Origin(parent, who_asks(author), force),
    )
    typer.echo(f"registered as {run_interruptibly(work)}")


def alias(
    alias: AliasArgument,
    version: VersionArgument,
    expected: ExpectedOption = "",
    force: ForceOption = False,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """Point an alias to a version, once the engine holds it; ends a canary of the alias."""
    request = pb.SetAliasRequest(
        alias=alias, version=version, expected_version=expected, author=who_asks(author), force=force
    )
    _tell(_ask(lora_server, home, lambda server: server.SetAlias(request, timeout=calls.LOAD_SECONDS)))


def canary(
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="What is tried.")] = "",
    weight: Annotated[float, typer.Option(help="The share of the alias's users: above 0, at most 1.")] = 0.05,
    end: Annotated[bool, typer.Option("--end", help="End the canary; all go to the stable version.")] = False,
    min_requests: Annotated[
        int | None, typer.Option(metavar="N", help="Of both versions, before anything is judged; else 20.")
    ] = None,
    max_error_excess: Annotated[
        float | None, typer.Option(metavar="RATE", help="Of errors, above the stable version's; else 0.02.")
    ] = None,
    max_invalid_excess: Annotated[
        float | None, typer.Option(metavar="RATE", help="Of answers that a validator refuses; else 0.05.")
    ] = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(metavar="RATIO", help="Of p95 to the stable version's; else 1.5.")
    ] = None,
    expected: ExpectedOption = "",
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """Send a share of an alias's users to another version; it is taken back by itself where it is worse."""
    if end == bool(version):
        raise Misused("name the VERSION that is tried, or --end, one of them")
    if not end and not 0 < weight <= 1:
        raise Misused(f"--weight is {weight:g}; it is above 0 and at most 1")
    terms = pb.CanaryTerms(
        min_requests=min_requests,
        max_error_excess=max_error_excess,
        max_invalid_excess=max_invalid_excess,
        max_latency_ratio=max_latency_ratio,
    )
    request = pb.SetCanaryRequest(
        alias=alias,
        version=version,
        weight=0 if end else weight,
        terms=terms,
        author=who_asks(author),
        expected_version=expected,
    )
    _tell(_ask(lora_server, home, lambda server: server.SetCanary(request, timeout=calls.LOAD_SECONDS)))


def rollback(
    alias: AliasArgument,
    reason: Annotated[str, typer.Option(help="For the history.")] = "",
    expected: ExpectedOption = "",
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """End an alias's canary; without one, point the alias back to where it pointed before."""
    request = pb.RollbackRequest(alias=alias, expected_version=expected, author=who_asks(author), reason=reason)
    _tell(_ask(lora_server, home, lambda server: server.Rollback(request, timeout=calls.LOAD_SECONDS)))


def place(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter's.")],
    placement: Annotated[str, typer.Argument(metavar="all|N|on-demand", help="How many engines hold it.")],
    expected: Annotated[
        str, typer.Option(metavar="all|N|on-demand", help="Only if it is placed so now; else however it is.")
    ] = "",
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """Say how many engines hold those versions of an adapter that an alias points to; which ones is found by itself."""
    request = pb.SetPlacementRequest(
        placement=placements.from_words(name, placement),
        expected=placements.from_words(name, expected) if expected else None,
        author=who_asks(author),
    )
    placed = _ask(lora_server, home, lambda server: server.SetPlacement(request, timeout=calls.SECONDS))
    typer.echo(f"{name} is placed: {placements.in_words(placed)}")


def pin(
    version: VersionArgument, author: AuthorOption = "", lora_server: LoraServerOption = "", home: HomeOption = HERE
) -> None:
    """Have every engine hold a version, whatever else is asked for."""
    _pin(pb.PinRequest(version=version, pinned=True, author=who_asks(author)), lora_server, home)
    typer.echo(f"{version} is pinned")


def unpin(
    version: VersionArgument, author: AuthorOption = "", lora_server: LoraServerOption = "", home: HomeOption = HERE
) -> None:
    """Let engines give up a version that nobody asks for."""
    _pin(pb.PinRequest(version=version, pinned=False, author=who_asks(author)), lora_server, home)
    typer.echo(f"{version} is not pinned")


def retire(
    version: VersionArgument,
    reason: Annotated[str, typer.Option(help="For the history.")] = "",
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """Take a version out of use: it is unloaded everywhere. Registering it again brings it back."""
    request = pb.RetireRequest(version=version, author=who_asks(author), reason=reason)
    _ask(lora_server, home, lambda server: server.Retire(request, timeout=calls.SECONDS))
    typer.echo(f"{version} is retired")


def delete(
    version: VersionArgument, author: AuthorOption = "", lora_server: LoraServerOption = "", home: HomeOption = HERE
) -> None:
    """Remove a retired or failed version for ever, its weights too."""
    request = pb.DeleteAdapterRequest(version=version, author=who_asks(author))
    _ask(lora_server, home, lambda server: server.Delete(request, timeout=calls.LOAD_SECONDS))
    typer.echo(f"{version} is deleted")


def history(
    name: AdapterArgument = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    as_json: JsonOption = False,
    lora_server: LoraServerOption = "",
    home: HomeOption = HERE,
) -> None:
    """Show what was changed, by whom and why, the newest first."""
    request = pb.HistoryRequest(name=name, limit=limit)
    found = _ask(lora_server, home, lambda server: server.History(request, timeout=calls.SECONDS))
    if as_json:
        _print_json([pages.change_as_json(change) for change in found.changes])
    else:
        pages.show(pages.history_page(found.changes))


def _ask(lora_server: str, home: Path, question: Callable[[Any], Awaitable[Any]]) -> Any:
    return run_interruptibly(calls.ask(lora_server_address(lora_server, home), question))


def _pin(request: pb.PinRequest, lora_server: str, home: Path) -> None:
    _ask(lora_server, home, lambda server: server.Pin(request, timeout=calls.SECONDS))


def _tell(alias: pb.Alias) -> None:
    typer.echo(pages.alias_in_words(alias))


def _fact(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise Misused(f"--fact is '{text}'; write KEY=VALUE")
    return name, value


def _print_json(what: Any) -> None:
    typer.echo(json.dumps(what, indent=2, ensure_ascii=False))
