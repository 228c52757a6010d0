"""YAML files whose every key is known."""

from pathlib import Path
from typing import TypeVar

import yaml
from pointsman_servicekit import strict_yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pointsman_cli.errors import CommandError


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Strict)


def read(file: Path, shape: type[Model]) -> Model:
    """Raises CommandError, which names the file, the key, the value and what would be right."""
    try:
        return shape.model_validate(strict_yaml.load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} is no YAML: {error}") from error
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']} (it is {one['input']!r:.60})"
            for one in error.errors()
        )
        raise CommandError(f"{file}: {told}") from error
