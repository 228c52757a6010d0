"""What is to be trained, as the trainer's command line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pointsman_cli.errors import Misused

MODULE = "pointsman_lora_server.training"


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    data: Path
    method: str
    heldout: Path | None = None
    system: Path | None = None
    out: Path | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    """More of the trainer's, by their names there; those that are None are left to it, True is a flag."""

    def check(self) -> None:
        """Raises `Misused` where a file is not there; all else is the trainer's to judge."""
        for option, file in (("--data", self.data), ("--eval-data", self.heldout), ("--system", self.system)):
            if file is not None and not file.is_file():
                raise Misused(f"{option} {file} is not a file")

    def arguments(self, base_model: Path, base_model_name: str) -> list[str]:
        """All paths absolute."""
        options = {
            "base-model": base_model,
            "base-model-name": base_model_name,
            "data": self.data,
            "eval-data": self.heldout,
            "system": self.system,
            "out": self.out,
            "name": self.name,
            "method": self.method,
            **self.options,
        }
        return [part for name, value in options.items() for part in _written(name, value)]


def _written(name: str, value: object) -> Iterator[str]:
    if value is None or value is False:
        return
    yield f"--{name}"
    if value is not True:
        yield str(value.absolute() if isinstance(value, Path) else value)
