"""Describes why an export has failed, for the log."""


def cause_of(error: BaseException) -> str:
    """Returns the error's message and type. Some errors, such as a TimeoutError, have no message."""
    name = type(error).__name__
    return f"{error} ({name})" if str(error) else name
