"""The command's entrance: every error becomes one line on standard error and an exit code."""

import errno
import os
import sys
from collections.abc import Sequence

import typer
from pointsman_servicekit.errors import PointsmanError
from typer.exceptions import TyperException

from pointsman_cli.app import build_app
from pointsman_cli.errors import CommandError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    # Or gRPC's library tells of each connection that ends; it reads this when the first one is made.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again at its end, and says so
        code = code or _fail(_not_written(error), 1)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns its exit code: 0 done, 1 failed, 2 misused, 130 interrupted."""
    try:
        result = build_app()(args=list(arguments), prog_name="pointsman", standalone_mode=False)
    except TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _fail(message, getattr(error, "exit_code", 2))
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except PointsmanError as error:
        return _fail(f"{error.message} ({error.code})", 1)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            return _fail(_not_written(error), 1)
        if os.environ.get("POINTSMAN_TRACEBACK"):
            raise
        return _fail(f"{type(error).__name__}: {error} (a bug; POINTSMAN_TRACEBACK=1 shows where)", 1)
    return result if isinstance(result, int) else 0


def _not_written(error: OSError) -> str:
    return f"what is to be written to {error.filename or 'the output'} is not whole: {error.strerror}; make room there"


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
