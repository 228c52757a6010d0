"""Reads the properties of training methods. Their code is only installed in the engine's environment, so a process
there loads it.
"""

import asyncio
import json
from dataclasses import dataclass

from pointsman_servicekit.errors import FailedPrecondition

from pointsman_lora_server.jobs.execution import trainer_variables
from pointsman_lora_server.jobs.job import JobEnvironment, check_method

METHODS_MODULE = "pointsman_lora_server.training.methods"
DESCRIBE_SECONDS = 60.0
"""Time limit for reading a method's properties, in seconds. It can take long, because the method's module may import
torch."""


@dataclass(frozen=True, slots=True)
class MethodFacts:
    """The properties of a training method that clients need; see the fields of the same names in `TrainingMethod`."""

    learns_from_pairs: bool
    must_be_merged: bool


async def describe_method(environment: JobEnvironment, name: str) -> MethodFacts:
    """Loads a training method in a process of the engine's environment, and returns its properties.

    Raises InvalidArgument ("bad_method") if `name` is unknown, and FailedPrecondition ("bad_method") if it cannot be
    loaded within `DESCRIBE_SECONDS`.
    """
    check_method(name, environment.methods)
    process = await asyncio.create_subprocess_exec(
        *(str(environment.python.absolute()), "-m", METHODS_MODULE, environment.methods[name]),
        env=trainer_variables(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DESCRIBE_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise _not_loadable(name, f"it took longer than {DESCRIBE_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _not_loadable(name, errors.decode(errors="replace").strip().rpartition("\n")[2])
    return MethodFacts(**json.loads(output.decode().strip().rpartition("\n")[2]))  # an import may print lines, too


def _not_loadable(name: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the training method '{name}' cannot be loaded in the engine's environment: {reason}",
        code="bad_method",
        param="name",
    )
