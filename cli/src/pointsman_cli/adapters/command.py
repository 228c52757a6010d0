"""`pointsman adapters`: all its commands except `freshness` and `watch`, which have modules of their own."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pointsman.v1 import lora_server_pb2 as pb

from pointsman_cli.adapters.freshness import freshness
from pointsman_cli.adapters.tables import (
    adapters_table,
    alias_text,
    change_as_json,
    history_text,
    list_as_json,
    parse_replicas,
    print_renderable,
    replicas_text,
    version_as_json,
    version_table,
)
from pointsman_cli.adapters.watch import watch
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.example import ExampleAdapter
from pointsman_cli.grpc_clients import CALL_SECONDS, LOAD_SECONDS, Provenance, call_lora_server, fetch_adapters
from pointsman_cli.grpc_clients import register_adapter as have_registered
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    AdapterArgument,
    AliasArgument,
    AuthorOption,
    DataDirOption,
    IfVersionOption,
    JsonOption,
    LoraServerOption,
    VersionArgument,
    author_name,
    lora_server_address,
    print_json,
)

ForceOption = Annotated[
    bool, typer.Option("--force", help="Move the alias even if the evaluation found prompting to be as good.")
]


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="List and register adapters, and move aliases between their versions.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("list")(list_adapters)
    for command in (
        show,
        register,
        promote,
        canary,
        rollback,
        set_replicas,
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
    name: AdapterArgument = "",
    as_json: JsonOption = False,
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """List adapter versions (of each adapter newest first) with their state, and the aliases with their versions."""
    found = run_interruptibly(fetch_adapters(lora_server_address(lora_server, data_dir), name))
    if as_json:
        print_json(list_as_json(found))
    else:
        print_renderable(adapters_table(found.versions, found.aliases, found.placements))


def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version or an alias.")],
    as_json: JsonOption = False,
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show one adapter version: its manifest, its state, and its error if its registration or loading failed."""
    request = pb.GetAdapterRequest(version=version)
    found = _ask(lora_server, data_dir, lambda server: server.Get(request, timeout=CALL_SECONDS))
    if as_json:
        print_json(version_as_json(found))
    else:
        print_renderable(version_table(found))


def register(
    name: Annotated[str, typer.Argument(help="Name of the adapter: 1 to 64 of a-z, 0-9, - and _.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|URL",
            help="Folder on the lora-server's machine with adapter_config.json and adapter_model.safetensors; or "
            "s3://BUCKET/FOLDER (gs://, az://), or hf://OWNER/NAME of the Hugging Face hub.",
        ),
    ],
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="Also move NAME@ALIAS to the new version.")] = "",
    fact: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A fact for the manifest; repeatable.")
    ] = None,
    init_from: Annotated[str, typer.Option(metavar="VERSION", help="The version that its training started from.")] = "",
    force: ForceOption = False,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Register an adapter: the lora-server checks, stores, smoke-tests and loads it.

    The first smoke test takes about a minute.
    """
    folder = source if "://" in source else Path(source)
    if isinstance(folder, Path) and not folder.is_absolute() and not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder here; give the absolute path of a folder on the lora-server's machine"
        )
    facts = dict(_fact(each) for each in fact or ())
    work = have_registered(
        lora_server_address(lora_server, data_dir),
        ExampleAdapter(name, folder, alias),
        facts,
        Provenance(init_from, author_name(author), force),
    )
    typer.echo(f"registered as {run_interruptibly(work)}")


def promote(
    alias: AliasArgument,
    version: VersionArgument,
    if_version: IfVersionOption = "",
    force: ForceOption = False,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Point an alias to an adapter version once the engine has loaded it. Also ends the alias's canary, if any."""
    request = pb.SetAliasRequest(
        alias=alias, version=version, expected_version=if_version, author=author_name(author), force=force
    )
    _tell(_ask(lora_server, data_dir, lambda server: server.SetAlias(request, timeout=LOAD_SECONDS)))


def canary(
    alias: AliasArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The candidate version.")] = "",
    weight: Annotated[float, typer.Option(help="Share of the alias's users: above 0, at most 1.")] = 0.05,
    end: Annotated[bool, typer.Option("--end", help="End the canary; all users get the stable version.")] = False,
    min_requests: Annotated[
        int | None, typer.Option(metavar="N", help="Requests per version before they are compared; default: 20.")
    ] = None,
    max_error_excess: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Allowed excess of the error rate over the stable version; default: 0.02."),
    ] = None,
    max_invalid_excess: Annotated[
        float | None, typer.Option(metavar="RATE", help="Allowed excess of the rate of invalid answers; default: 0.05.")
    ] = None,
    max_rating_loss: Annotated[
        float | None,
        typer.Option(metavar="RATING", help="Allowed loss of the callers' mean rating, from 0 to 1; default: 0.1."),
    ] = None,
    max_latency_ratio: Annotated[
        float | None,
        typer.Option(metavar="RATIO", help="Allowed ratio of p95 latency to the stable version; default: 1.5."),
    ] = None,
    if_version: IfVersionOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even if the evaluation found prompting to be as good.")
    ] = False,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Send a share of an alias's users to another adapter version; ends automatically if this version is worse."""
    if end == bool(version):
        raise UsageError("give either the candidate VERSION or --end")
    if not end and not 0 < weight <= 1:
        raise UsageError(f"--weight is {weight:g}; it must be above 0 and at most 1")
    terms = pb.CanaryTerms(
        min_requests=min_requests,
        max_error_excess=max_error_excess,
        max_invalid_excess=max_invalid_excess,
        max_rating_loss=max_rating_loss,
        max_latency_ratio=max_latency_ratio,
    )
    request = pb.SetCanaryRequest(
        alias=alias,
        version=version,
        weight=0 if end else weight,
        terms=terms,
        author=author_name(author),
        expected_version=if_version,
        force=force,
    )
    _tell(_ask(lora_server, data_dir, lambda server: server.SetCanary(request, timeout=LOAD_SECONDS)))


def rollback(
    alias: AliasArgument,
    reason: Annotated[str, typer.Option(help="A reason for the history.")] = "",
    if_version: IfVersionOption = "",
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """End an alias's canary (trial of a version); without a canary, point the alias back to its previous version."""
    request = pb.RollbackRequest(alias=alias, expected_version=if_version, author=author_name(author), reason=reason)
    _tell(_ask(lora_server, data_dir, lambda server: server.Rollback(request, timeout=LOAD_SECONDS)))


def set_replicas(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.")],
    replicas: Annotated[str, typer.Argument(metavar="all|N|auto|on-demand", help="How many engines hold it.")],
    if_replicas: Annotated[
        str, typer.Option(metavar="all|N|auto|on-demand", help="Only if this is the setting now (compare-and-set).")
    ] = "",
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Set on how many engines the versions that an alias points to are loaded; the lora-servers choose the engines."""
    request = pb.SetPlacementRequest(
        placement=parse_replicas(name, replicas),
        expected=parse_replicas(name, if_replicas) if if_replicas else None,
        author=author_name(author),
    )
    placed = _ask(lora_server, data_dir, lambda server: server.SetPlacement(request, timeout=CALL_SECONDS))
    typer.echo(f"replicas of {name}: {replicas_text(placed)}")


def pin(
    version: VersionArgument,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Keep a version loaded on every engine; it is never evicted."""
    _pin(pb.PinRequest(version=version, pinned=True, author=author_name(author)), lora_server, data_dir)
    typer.echo(f"{version} is pinned")


def unpin(
    version: VersionArgument,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Allow engines to evict a version that is not in use."""
    _pin(pb.PinRequest(version=version, pinned=False, author=author_name(author)), lora_server, data_dir)
    typer.echo(f"{version} is not pinned")


def retire(
    version: VersionArgument,
    reason: Annotated[str, typer.Option(help="A reason for the history.")] = "",
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Retire an adapter version to which no alias points: unload it from every engine, and unpin it.

    Registering the same adapter again reactivates the version.
    """
    request = pb.RetireRequest(version=version, author=author_name(author), reason=reason)
    _ask(lora_server, data_dir, lambda server: server.Retire(request, timeout=CALL_SECONDS))
    typer.echo(f"{version} is retired")


def delete(
    version: VersionArgument,
    author: AuthorOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Delete a retired or failed version with its weights. This cannot be undone."""
    request = pb.DeleteAdapterRequest(version=version, author=author_name(author))
    _ask(lora_server, data_dir, lambda server: server.Delete(request, timeout=LOAD_SECONDS))
    typer.echo(f"{version} is deleted")


def history(
    name: AdapterArgument = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Maximum number of changes.")] = 20,
    as_json: JsonOption = False,
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show the changes of adapters and their aliases, with author and reason, newest first."""
    request = pb.HistoryRequest(name=name, limit=limit)
    found = _ask(lora_server, data_dir, lambda server: server.History(request, timeout=CALL_SECONDS))
    if as_json:
        print_json([change_as_json(change) for change in found.changes])
    else:
        print_renderable(history_text(found.changes))


def _ask(lora_server: str, data_dir: Path, question: Callable[[Any], Awaitable[Any]]) -> Any:
    return run_interruptibly(call_lora_server(lora_server_address(lora_server, data_dir), question))


def _pin(request: pb.PinRequest, lora_server: str, data_dir: Path) -> None:
    _ask(lora_server, data_dir, lambda server: server.Pin(request, timeout=CALL_SECONDS))


def _tell(alias: pb.Alias) -> None:
    typer.echo(alias_text(alias))


def _fact(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--fact is '{text}'; it must be KEY=VALUE")
    return name, value
