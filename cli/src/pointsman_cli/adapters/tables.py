"""Renders adapter versions, aliases and the history of their changes as tables, and converts them to JSON."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pointsman.v1 import lora_server_pb2 as pb
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman_cli.errors import UsageError
from pointsman_cli.tables import UNLIMITED, FittingTable

STATE_NAMES = {number: name.removeprefix("ADAPTER_STATE_").lower() for name, number in pb.AdapterState.items()}
_TIME_FORMAT = "%Y-%m-%d %H:%M"


def list_as_json(found: pb.ListAdaptersResponse) -> dict[str, Any]:
    return {
        "versions": [version_as_json(version) for version in found.versions],
        "aliases": [alias_as_json(alias) for alias in found.aliases],
        "placements": {placement.name: replicas_text(placement) for placement in found.placements},
    }


def version_as_json(version: pb.AdapterVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "name": version.name,
        "state": STATE_NAMES[version.state],
        "error_code": version.last_error_code,
        "error": version.last_error,
        "aliases": list(version.aliases),
        "pinned": version.pinned,
        "sha256": version.sha256,
        "base_model": version.base_model,
        "base_digest": version.base_digest,
        "chat_template_sha256": version.chat_template_sha256,
        "training_data_sha256": version.training_data_sha256,
        "rank": version.rank,
        "target_modules": list(version.target_modules),
        "bytes": version.bytes,
        "created_unix_ms": version.created_unix_ms,
        "metrics": dict(version.metrics),
        "facts": dict(version.facts),
        "parent": version.parent,
        "author": version.author,
    }


def alias_as_json(alias: pb.Alias) -> dict[str, Any]:
    canary = {"version": alias.canary_version, "weight": alias.canary_weight} if alias.canary_version else None
    return {
        "alias": alias.alias,
        "version": alias.version,
        "revision": alias.revision,
        "canary": canary,
        "previous": alias.previous,
    }


def change_as_json(change: pb.Change) -> dict[str, Any]:
    return {name: getattr(change, name) for name in pb.Change.DESCRIPTOR.fields_by_name}


def adapters_table(
    versions: Sequence[pb.AdapterVersion], aliases: Sequence[pb.Alias], placed: Sequence[pb.Placement] = ()
) -> RenderableType:
    """Renders a table of adapter versions, their load errors, and a table of aliases; "no adapters" if there are none.

    `placed` has the placement of each adapter that is not kept on every engine; each gets a line below the tables.
    """
    if not versions:
        return Text("no adapters")
    rows = [
        (
            version.version,
            STATE_NAMES[version.state],
            _uses(version, aliases),
            str(version.rank),
            f"{version.bytes / 2**20:.1f}",
            _time(version.created_unix_ms),
        )
        for version in versions
    ]
    columns = ("version", "state", "in use as", "rank", "MiB", "created (UTC)")
    parts: list[RenderableType] = [FittingTable(columns, rows, right=("rank", "MiB"))]
    parts += [
        Text(f"{version.version}: {version.last_error} ({version.last_error_code})")
        for version in versions
        if version.last_error
    ]
    if aliases:
        parts += [Text(), _aliases(aliases)]
    if placed:
        parts += [Text(), *(Text(f"replicas of {each.name}: {replicas_text(each)}") for each in placed)]
    return Group(*parts)


def _uses(version: pb.AdapterVersion, aliases: Sequence[pb.Alias]) -> str:
    """Returns the names of a version's aliases, without the name of the adapter, and "pinned" if the version is pinned.

    If the version is the canary of an alias, the share of users who get it follows the alias.
    """
    shares = {each.alias: each.canary_weight for each in aliases if each.canary_version == version.version}
    words = [
        alias.partition("@")[2] + (f" {shares[alias]:.4g}" if alias in shares else "") for alias in version.aliases
    ]
    return ", ".join([*words, "pinned"] if version.pinned else words)


def _aliases(aliases: Sequence[pb.Alias]) -> FittingTable:
    """Returns the table of aliases, with a row of its own for each canary."""
    rows = []
    for alias in aliases:
        if alias.canary_version:
            rows.append((alias.alias, alias.version, f"{1 - alias.canary_weight:.4g}", alias.previous))
            rows.append(("", alias.canary_version, f"{alias.canary_weight:.4g}", ""))
        else:
            rows.append((alias.alias, alias.version, "all", alias.previous))
    return FittingTable(("alias", "points to", "of its users", "before"), rows)


def version_table(version: pb.AdapterVersion) -> RenderableType:
    error = f"{version.last_error} ({version.last_error_code})" if version.last_error else ""
    rows = {
        "version": version.version,
        "state": STATE_NAMES[version.state],
        "error": error,
        "aliases": ", ".join(version.aliases),
        "pinned": "yes" if version.pinned else "",
        "created (UTC)": _time(version.created_unix_ms),
        "author": version.author,
        "parent": version.parent,
        "base model": version.base_model,
        "base digest": version.base_digest,
        "chat template": version.chat_template_sha256,
        "training data": version.training_data_sha256,
        "sha256": version.sha256,
        "size": f"rank {version.rank}, {version.bytes / 2**20:.1f} MiB",
        "modules": ", ".join(version.target_modules),
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in sorted(version.metrics.items())),
        "facts": ", ".join(f"{name} {value}" for name, value in sorted(version.facts.items())),
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def history_text(changes: Sequence[pb.Change]) -> RenderableType:
    """Renders changes of adapters and aliases, each on one to three lines, so that long names are not cut."""
    return Group(*map(_change, changes)) if changes else Text("nothing was changed")


def _change(change: pb.Change) -> Text:
    at = datetime.fromtimestamp(change.at_unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    by = f"  by {change.author}" if change.author else ""
    lines = [f"{at}  {change.kind}  {change.subject}{by}"]
    if change.before or change.after:
        lines.append(f"  {change.before or 'nothing'} -> {change.after or 'nothing'}")
    if change.reason:
        lines.append(f"  {change.reason}")
    return Text("\n".join(lines))


def alias_text(alias: pb.Alias) -> str:
    canary = (
        f", and for {alias.canary_weight:.4g} of its users to {alias.canary_version}" if alias.canary_version else ""
    )
    return f"{alias.alias} points to {alias.version}{canary} (revision {alias.revision})"


def print_renderable(page: RenderableType) -> None:
    console = Console(highlight=False)
    console.width = console.width if console.is_terminal else UNLIMITED
    console.print(page, crop=False)


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime(_TIME_FORMAT)


def parse_replicas(name: str, words: str) -> pb.Placement:
    """Converts "all", "auto", "on-demand" or a number of engines, at least 1, to a placement of the adapter `name`.

    Raises UsageError for any other text.
    """
    if words == "all":
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ALL)
    if words == "auto":
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_AUTO)
    if words == "on-demand":
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ON_DEMAND)
    if words.isascii() and words.isdigit() and 0 < int(words) < 2**32:
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_COPIES, copies=int(words))
    raise UsageError(f"'{words}' is not a number of replicas; use all, auto, on-demand, or a number of engines from 1")


def replicas_text(placement: pb.Placement) -> str:
    if placement.kind == pb.PLACEMENT_KIND_COPIES:
        return f"{placement.copies} {'copy' if placement.copies == 1 else 'copies'}"
    if placement.kind == pb.PLACEMENT_KIND_AUTO:
        return "by demand"
    return "on demand" if placement.kind == pb.PLACEMENT_KIND_ON_DEMAND else "all engines"
