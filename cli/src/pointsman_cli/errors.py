"""What the person at the keyboard is told in one line."""


class CommandError(Exception):
    """Something went wrong; the message says what and what to do."""

    exit_code = 1


class Misused(CommandError):
    """The command, or a file it was given, is not as it should be; nothing was started."""

    exit_code = 2


class Refused(CommandError):
    """The gateway said no, or broke an answer off with an error."""

    def __init__(self, message: str, code: str, wait: float | None = None) -> None:
        """`code` is the gateway's; `wait` is in seconds: a limit of the caller's own asks for it."""
        super().__init__(message)
        self.code = code
        self.wait = wait


class Unreachable(CommandError):
    """Nothing answers where the gateway should be."""


class Interrupted(CommandError):
    """Ctrl-C or SIGTERM came before the end."""

    exit_code = 130
