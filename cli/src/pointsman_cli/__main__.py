"""Entry point of the `pointsman` command: an error becomes one line on standard error and an exit code.

If the environment variable POINTSMAN_TRACEBACK is set, an unexpected error is raised instead, so that Python prints its
traceback.
"""

import errno
import os
import sys
from collections.abc import Sequence

import typer
from pointsman_servicekit.errors import PointsmanError
from typer.exceptions import TyperException

from pointsman_cli.app import build_app
from pointsman_cli.errors import CommandError, Refused
from pointsman_cli.options import KEY_VARIABLE

_REMEDIES = dict.fromkeys(
    ("missing_key", "unknown_key", "revoked_key", "expired_key"),
    f"; put a key into {KEY_VARIABLE}, or name its variable with --key-env",
) | {
    f"{service}_unavailable": f"; start it with `pointsman up EXAMPLE_FOLDER`, or name its address with --{service}"
    for service in ("lora-server", "retriever")
}
"""What a user of the command can do about an error, by the error's code; it is appended to the message."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    # Read by gRPC when the first channel opens; by default it logs every connection that ends.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # otherwise Python flushes again at exit and prints a traceback
        code = code or _fail(_disk_full(error), 1)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code: 0 done, 1 failed, 2 usage error, 130 interrupted.

    Some commands have further exit codes: `retrain` returns 3 if the new adapter version was rejected. `arguments` do
    not include the program's name. Prints the message of an error on standard error. Raises only unexpected errors, and
    these only if POINTSMAN_TRACEBACK is set.
    """
    try:
        result = build_app()(args=list(arguments), prog_name="pointsman", standalone_mode=False)
    except TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        code = getattr(error, "exit_code", 2)
        if message.startswith("Usage: "):  # the help of a group that was named without a command
            print(message, file=sys.stderr)
            return code
        return _fail(message, code)
    except CommandError as error:
        code = error.code if isinstance(error, Refused) else ""
        return _fail(f"{error}{_REMEDIES.get(code, '')}", error.exit_code)
    except PointsmanError as error:
        return _fail(f"{error.message} ({error.code}){_REMEDIES.get(error.code, '')}", 1)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return _fail(_disk_full(error), 1)
        if os.environ.get("POINTSMAN_TRACEBACK"):
            raise
        return _fail(f"{type(error).__name__}: {error} (a bug; set POINTSMAN_TRACEBACK=1 to see where)", 1)
    return result if isinstance(result, int) else 0


def _disk_full(error: OSError) -> str:
    return f"{error.filename or 'the output'} could not be written completely: {error.strerror}; free some space there"


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
