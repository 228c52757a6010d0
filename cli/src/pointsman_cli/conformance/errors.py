"""The errors of the swap test.

ApiError          the URL does not list its models
ControlRefused    an adapter was not loaded, replaced or unloaded
LimitReached      the test may send no more requests
CannotTest        the command ends, with exit code 3
"""

from pointsman_cli.errors import CommandError


class ApiError(Exception):
    """The URL does not list its models; the text is one line that says why."""


class ControlRefused(Exception):
    """The engine, or who manages its adapters, refused the change or did not answer; the text says why."""

    def __init__(self, message: str, status: int = 0) -> None:
        """Takes the HTTP status of the refusal, 0 if there is none."""
        super().__init__(message)
        self.status = status


class LimitReached(Exception):
    """The test has sent as many requests, or takes as long, as it may."""


class CannotTest(CommandError):
    """The test cannot be carried out."""

    exit_code = 3
