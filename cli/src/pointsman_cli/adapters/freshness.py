"""`pointsman adapters freshness`: shows what share of the documents has changed since adapters were trained on them.

Only adapter versions with an alias are shown.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_servicekit.document_sketch import MANIFEST_KEY_PREFIX, Sketch, changed_share, parse_sketch

from pointsman_cli.errors import run_interruptibly
from pointsman_cli.grpc_clients import fetch_adapters
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    AdapterArgument,
    DataDirOption,
    JsonOption,
    LoraServerOption,
    RetrieverOption,
    TenantOption,
    lora_server_address,
    print_json,
    retriever_address,
)
from pointsman_cli.retriever.command import fetch_sketch
from pointsman_cli.tables import print_table

DATA_TIME_FACT, DATA_SET_FACT = "data_unix", "data_set"
"""The names of two facts that `pointsman retrain` writes into an adapter's manifest: the time of its training data, in
Unix seconds, and the name of this data."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How much the documents of one retrieval collection have changed since one adapter version was trained on them.

    A sketch is a summary of a collection's documents. If the version's manifest has no sketch, the version has one
    Freshness, with an empty `collection` and `changed` 0.
    """

    version: str
    aliases: tuple[str, ...]
    data_set: str
    """The name of the training data; empty if the manifest does not name it."""
    trained_on: float
    """When the training data was built, in Unix seconds; 0 if the manifest does not say."""
    collection: str
    """The name of the collection; empty if the manifest has no valid sketch (summary) of any collection."""
    changed: float
    """Share (0 to 1) of the collection's documents that were added, removed or changed; 0 if no collection is named."""


def freshness(
    name: AdapterArgument = "",
    warn_above: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Exit with code 1 if a larger share of a collection has changed."
        ),
    ] = None,
    as_json: JsonOption = False,
    tenant: TenantOption = "",
    retriever: RetrieverOption = "",
    lora_server: LoraServerOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show what share of the documents has changed since the adapters that have an alias were trained on them.

    If much has changed, retrain the adapter or route its task to a path with retrieval.
    """
    at = lora_server_address(lora_server, data_dir), retriever_address(retriever, data_dir)
    found = run_interruptibly(_look(*at, name, tenant))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        _show(found)
    if warn_above is not None and any(one.changed > warn_above for one in found):
        raise typer.Exit(1)


async def _look(lora_server: str, retriever: str, name: str, tenant: str) -> list[Freshness]:
    listed = await fetch_adapters(lora_server, name)
    return [one for version in listed.versions if version.aliases for one in await _of(version, retriever, tenant)]


async def _of(version: pb.AdapterVersion, retriever: str, tenant: str) -> list[Freshness]:
    then = _sketches_of(version)
    now = {name: await fetch_sketch(retriever, tenant, name) for name in then}
    shares = [(name, changed_share(then[name], now[name])) for name in sorted(then)] or [("", 0.0)]
    dated = version.facts.get(DATA_TIME_FACT, "")
    trained_on = float(dated) if dated.isdecimal() else 0.0
    data_set = version.facts.get(DATA_SET_FACT, "")
    return [Freshness(version.version, tuple(version.aliases), data_set, trained_on, *each) for each in shares]


def _sketches_of(version: pb.AdapterVersion) -> dict[str, Sketch]:
    """Returns the sketches (summaries of documents) in the version's manifest, by the name of the collection.

    Prints a warning for each sketch that is invalid, and leaves it out.
    """
    sketches = {}
    for name, text in version.facts.items():
        if name.startswith(MANIFEST_KEY_PREFIX):
            try:
                sketches[name.removeprefix(MANIFEST_KEY_PREFIX)] = parse_sketch(text)
            except ValueError as error:
                typer.echo(f"warning: the manifest of {version.version} has an invalid sketch: {error}", err=True)
    return sketches


def _show(found: Sequence[Freshness]) -> None:
    if not found:
        typer.echo("no adapter serves")
        return
    rows = []
    for one in found:
        dated = datetime.fromtimestamp(one.trained_on, UTC).strftime("%Y-%m-%d %H:%M") if one.trained_on else "?"
        changed = f"{one.changed:.0%} of its documents" if one.collection else "no collection is noted"
        rows.append((one.version, " ".join(one.aliases), one.data_set or "?", dated, one.collection, changed))
    print_table(("version", "in use as", "data set", "data of (UTC)", "collection", "changed"), rows)
