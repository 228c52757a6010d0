"""Loads and unloads the swap test's adapters by the user's commands, such as kubectl, for fleets that need them."""

import asyncio
import shlex
import tempfile
from contextlib import suppress

from pointsman_cli.conformance.adapter_shelf import AdapterShelf
from pointsman_cli.conformance.controls import IN_PLACE, LOAD_SECONDS
from pointsman_cli.conformance.errors import ControlRefused
from pointsman_cli.errors import UsageError
from pointsman_cli.processes import alive_processes, kill_processes, process_tree

KILL_POLL_SECONDS = 0.01
MAX_OUTPUT_BYTES = 4096
"""How many bytes at the end of a failed command's output are read for the error message."""


class CommandControl:
    """Loads and unloads adapters by running the user's commands; implements AdapterControl.

    In a command's arguments, {name} is replaced by the adapter's name, and {folder} by its folder at the engine. To
    replace an adapter, the load command runs again.
    """

    forms = (IN_PLACE,)
    remains = ""

    def __init__(self, shelf: AdapterShelf, load: list[str], unload: list[str], model: str) -> None:
        """Takes the test's adapters, the arguments of both commands, and the form of the model name in requests.

        `model` is this form, with {name} and {folder} as in the commands: "{name}", or "{folder}" for LoRAX.
        """
        self._shelf = shelf
        self._load, self._unload, self._model = load, unload, model

    async def load(self, name: str, made: str) -> None:
        self._shelf.serve(name, made)
        await run_command(self._filled(self._load, name))

    async def replace(self, name: str, made: str, form: str) -> None:
        await self.load(name, made)

    async def unload(self, name: str) -> None:
        await run_command(self._filled(self._unload, name))

    def model(self, name: str) -> str:
        return self._filled([self._model], name)[0]

    async def opens_to_anyone(self) -> bool:
        return False

    def _filled(self, arguments: list[str], name: str) -> list[str]:
        folder = self._shelf.served_at_engine(name)
        return [each.replace("{name}", name).replace("{folder}", folder) for each in arguments]


def split_command(command: str, option: str) -> list[str]:
    """Splits a command line into its arguments, as a shell does.

    Raises UsageError, which names `option`, if a quote is not closed.
    """
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(f"{option} {command!r} is not a valid command line: {error}") from error


async def run_command(arguments: list[str], max_seconds: float = LOAD_SECONDS) -> None:
    """Runs a command of the user and waits until it ends.

    Programs that it leaves in the background, such as a restarted engine, keep running. If this call is cancelled or
    takes longer than `max_seconds`, the command and all its descendants are killed.

    Raises ControlRefused if the command does not start, ends with another exit code than 0, or takes too long.
    """
    with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as such a program runs
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C ends the test, and not what the command has started
            )
        except (OSError, ValueError) as error:
            raise ControlRefused(f"{arguments[0]} cannot be started: {error}") from error
        try:
            async with asyncio.timeout(max_seconds):
                await process.wait()
        except TimeoutError:
            await _kill(process)
            raise ControlRefused(f"{arguments[0]} did not end within {max_seconds:g} s") from None
        except BaseException:
            await _kill(process)
            raise
        if process.returncode:
            output.seek(max(0, output.seek(0, 2) - MAX_OUTPUT_BYTES))
            last = (output.read().decode("utf-8", "replace").strip().splitlines() or [""])[-1]
            raise ControlRefused(f"{arguments[0]} ended with exit code {process.returncode}: {last[:200]}")


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kills the process and all that it has started; returns when they have ended."""
    descendants = process_tree(process.pid)
    with suppress(ProcessLookupError):
        process.kill()
    kill_processes(descendants)
    await process.wait()
    while alive_processes(descendants):  # noqa: ASYNC110 -- they are children of nobody here, so nothing tells their end
        await asyncio.sleep(KILL_POLL_SECONDS)
