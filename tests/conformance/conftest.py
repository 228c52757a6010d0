"""Fixtures of `tests/cli/conformance` and of the command line, for the slower tests of the swap test."""

from tests.cli import conftest as command_line
from tests.cli.conformance import conftest as swap_test

# Fixtures, which pytest finds here by their names.
cli, shelf, start_double = command_line.cli, swap_test.shelf, swap_test.start_double
