"""What ends a training run with exit code 1; the message is meant for the one who started it.

TrainingError
└── DataError
"""


class TrainingError(Exception):
    """The run cannot be done as it was asked for."""


class DataError(TrainingError):
    """The data cannot be trained on; the message names file and line, and says what would be right."""
