"""What is wrong with a file."""


class UnreadableFile(Exception):
    """The message goes on where the document's name ends: "is encrypted"."""
