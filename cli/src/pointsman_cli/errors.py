"""What the person at the keyboard is told in one line."""


class CommandError(Exception):
    """Something went wrong; the message says what and what to do."""

    exit_code = 1


class Misused(CommandError):
    """The command, or a file it was given, is not as it should be; nothing was started."""

    exit_code = 2


class Interrupted(CommandError):
    """Ctrl-C or SIGTERM came before the end."""

    exit_code = 130
