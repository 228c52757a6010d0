"""The folder of the swap test's adapters, which are made once for a base model, and copied for the engine."""

import hashlib
import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pointsman_cli.conformance.errors import CannotTest
from pointsman_cli.errors import UsageError
from pointsman_cli.processes import run_to_end

VERSIONS = 10
"""The number of adapter versions that `make_adapters` makes. The swap test uses four of them whose answers differ."""
UNFIT = ("other-names", "smaller-shapes")
"""The names of the test adapters that do not fit the base model, so that an engine should refuse to load them."""
HALF_BROKEN, NAN = "half-broken", "nan"
SCRIPT = Path(__file__).parent / "make_adapters.py"
"""The script that makes the test adapters. It needs torch, so it runs with the Python of the engine's environment."""


@dataclass(frozen=True, slots=True)
class AdapterShelf:
    """The folder of the swap test's adapters: the originals in `made/`, copies that engines load in `served/`.

    Each copy has the name under which the engine loads it. `folder` is the path on this machine, `engine_folder` the
    path of the same folder on the engine's machine.
    """

    folder: Path
    engine_folder: str
    """The path of the same folder on the engine's machine."""

    def made(self, name: str) -> Path:
        return self.folder / "made" / name

    def versions(self) -> list[str]:
        """Returns the names of all adapter versions, "version-0" and so on.

        Raises UsageError if the folder does not have the adapters that `make_adapters` makes.
        """
        try:
            count = int(json.loads((self.folder / "made" / "adapters.json").read_text())["versions"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.folder} holds no adapters of the swap test: name the base model's folder with --base ({error})"
            ) from error
        return [f"version-{number}" for number in range(count)]

    def serve(self, name: str, made: str, base_model: str = "") -> str:
        """Copies the adapter `made` to `served/NAME`, and returns the copy's path on the engine's machine.

        Replaces an existing copy. If `base_model` is not empty, the copy's adapter_config.json names it as the base
        model. Raises CannotTest if the copy cannot be written.
        """
        target, fresh, old = (self.folder / "served" / each for each in (name, f".{name}.new", f".{name}.old"))
        try:
            for leftover in (fresh, old):
                shutil.rmtree(leftover, ignore_errors=True)
            shutil.copytree(self.made(made), fresh)
            if base_model:
                config = fresh / "adapter_config.json"
                named = json.loads(config.read_text("utf-8")) | {"base_model_name_or_path": base_model}
                config.write_text(json.dumps(named), "utf-8")
            if target.exists():
                target.rename(old)
            fresh.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise CannotTest(f"{target} cannot be written: {error}") from error
        return self.served_at_engine(name)

    def withdraw(self, prefix: str, keep: Collection[str] = ()) -> None:
        """Removes the copies whose names begin with `prefix`, except those whose names begin with one of `keep`."""
        for folder in (self.folder / "served").glob(f"{prefix}*"):
            if not any(folder.name.startswith(each) for each in keep):
                shutil.rmtree(folder, ignore_errors=True)

    def served_at_engine(self, name: str) -> str:
        """Returns the path that the copy `name` in `served/` has, or would have, on the engine's machine."""
        return f"{self.engine_folder}/served/{name}"


async def make_adapters(shelf: AdapterShelf, base: Path, served_name: str, python: Path) -> None:
    """Makes the swap test's adapters for the base model in the folder `base`, unless they exist.

    `served_name` is the base model's name at the engine. `python` is the path of a Python that can import torch,
    transformers and PEFT. Raises UsageError if `base` has no config.json, CannotTest if the adapters cannot be made.
    """
    config = base / "config.json"
    if not config.is_file():
        raise UsageError(f"{base} has no config.json; --base is the base model's folder, or one with its config.json")
    made = shelf.folder / "made"
    marker = made / "made-for.json"
    script = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()
    made_for = json.dumps({"name": served_name, "config": config.read_text("utf-8"), "script": script})
    if marker.is_file() and marker.read_text("utf-8") == made_for:
        return
    arguments = (str(base), str(made), "--served-name", served_name, "--versions", str(VERSIONS))
    variables = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    end = await run_to_end([str(python), str(SCRIPT), *arguments], variables, lambda _: None)
    if end.code != 0:
        raise CannotTest(
            f"the adapters cannot be made: {end.reason}; it needs torch, transformers and peft in the environment of "
            f"{python} (--engine-python)"
        )
    marker.write_text(made_for, "utf-8")
