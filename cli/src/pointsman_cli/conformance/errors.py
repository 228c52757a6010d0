"""The errors of the swap test.

ApiError          the URL does not list its models
ControlRefused    an adapter was not loaded, replaced or unloaded
LimitReached      the test may send no more requests
CannotTest        the command ends, with exit code 3
"""

from pointsman_cli.errors import CommandError


class ApiError(Exception):
    """The list of models at the tested URL cannot be read; the message is one line that says why."""


class ControlRefused(Exception):
    """The engine, the lora-server or the user's command did not load, replace or unload an adapter.

    The message says why.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        """Takes the message and the HTTP status of the response that refused the change; 0 if there was no response."""
        super().__init__(message)
        self.status = status


class LimitReached(Exception):
    """The test has reached its maximum number of requests or its maximum time; the message says which."""


class CannotTest(CommandError):
    """The swap test cannot be carried out; the message says why. The command ends with exit code 3."""

    exit_code = 3
