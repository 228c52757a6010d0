"""What is wrong with a file."""


class Unreadable(Exception):
    """The message goes on where the document's name ends: "is encrypted"."""
