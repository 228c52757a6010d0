"""Reads a configuration into one `Config`, or reports what is wrong with it.

The configuration is a folder with models.yaml, paths.yaml, tasks.yaml and an optional access.yaml, or one file,
pointsman.yaml, with the keys of all four.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, TypeVar

import yaml
from pointsman_embedding import EncoderConfig
from pointsman_servicekit import strict_yaml
from pointsman_servicekit.yaml_variables import UnsetVariable
from pydantic import BaseModel, ValidationError

from pointsman_gateway.config.access_file import AccessFile
from pointsman_gateway.config.checks import check_files
from pointsman_gateway.config.example_files import (
    check_examples,
    check_out_of_scope,
    read_examples,
    read_out_of_scope,
    read_text,
    to_example,
)
from pointsman_gateway.config.field_types import ConfigError, Strict
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.config.schema_errors import explain
from pointsman_gateway.config.tasks_file import TaskConfig, TasksFile
from pointsman_gateway.extensions import Example

File = TypeVar("File", bound=BaseModel)

SINGLE_FILE = "pointsman.yaml"
_PARTS = ("models.yaml", "paths.yaml", "tasks.yaml")
_ACCESS_FILE = "access.yaml"
_PART_FILE = re.compile(r"\b(?:models|paths|tasks|access)\.yaml\b")

_Parts = tuple[ModelsFile, PathsFile, TasksFile, AccessFile]

_UP_KEYS = ("base_model", "collections", "adapters")
"""Keys of the single file that `pointsman up` reads."""
_SINGLE_FILE_KEYS = (
    *ModelsFile.model_fields,
    *PathsFile.model_fields,
    *TasksFile.model_fields,
    *AccessFile.model_fields,
    "prompts",
    *_UP_KEYS,
)


class _InlinePrompts(Strict):
    prompts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Config:
    """One configuration: the contents of all its files, which are valid and fit each other."""

    folder: FilePath
    """The folder to which relative file names in the configuration refer."""
    models: ModelsFile
    paths: PathsFile
    tasks: TasksFile
    examples: Mapping[str, tuple[Example, ...]]
    """The examples of each task."""
    out_of_scope: tuple[str, ...]
    """Texts that belong to no task."""
    prompts: Mapping[str, str]
    """The text of each prompt file by its name."""
    access: AccessFile
    revision: str
    """A hash of everything that was read; it changes with the configuration."""
    single_file: FilePath | None = None
    """The file with the whole configuration; None if the configuration is a folder with several files."""

    @property
    def encoder(self) -> EncoderConfig | None:
        """Returns the settings of the embedding model, with its folder as an absolute path; None for the default,
        MiniLM.
        """
        return self.models.embedding.relative_to(self.folder) if self.models.embedding else None

    def sharing_examples(self, earlier: "Config") -> "Config":
        """Returns a copy of this configuration that shares the examples of tasks with an earlier one, where they are
        equal.

        Otherwise each reload would replace thousands of small objects and fragment the memory.
        """
        known = earlier.examples
        return replace(self, examples={n: known[n] if known.get(n) == new else new for n, new in self.examples.items()})


def load_config(at: FilePath, environment: Mapping[str, str] = os.environ) -> Config:
    """Reads and checks the configuration in the folder or file `at`.

    `${VARIABLE}` in a file is replaced by the value that `environment` has. Raises ConfigError if the configuration is
    missing or invalid, OSError if a file cannot be read.
    """
    single = single_file(at)
    if single is None:
        return _load(at, _read_folder(at, environment), {})
    with errors_naming(single):
        return replace(_load(single.parent, *_read_single(single, environment)), single_file=single)


@contextmanager
def errors_naming(single: FilePath | None) -> Iterator[None]:
    """A context manager that corrects the file names in messages of ConfigErrors that its block raises.

    If the whole configuration is in the file `single`, its name replaces names such as "tasks.yaml". If `single` is
    None, errors are not changed.
    """
    try:
        yield
    except ConfigError as error:
        if single is None:
            raise
        raise ConfigError(_PART_FILE.sub(single.name, str(error))) from error


def single_file(at: FilePath) -> FilePath | None:
    """Returns the file with the whole configuration: `at` itself, or pointsman.yaml in the folder `at`.

    Returns None if the folder has no such file, so that its configuration is in several files. Raises ConfigError if
    `at` does not exist, or if the folder has both pointsman.yaml and one of the several files.
    """
    if at.is_file():
        return at
    if not at.is_dir():
        raise ConfigError(f"there is no configuration folder {at}")
    file = at / SINGLE_FILE
    if not file.is_file():
        return None
    both = [name for name in _PARTS if (at / name).is_file()]
    if both:
        raise ConfigError(f"{at} has {SINGLE_FILE} and {both[0]}; the configuration is one file or three, not both")
    return file


def watched_files(at: FilePath) -> list[FilePath]:
    """Returns the folders and files to watch for changes of the configuration, which is the folder or file `at`.

    A folder is watched itself. A file is watched with the folders prompts and tasks next to it; other files in the same
    folder need not belong to the configuration.
    """
    return [at, at.parent / "prompts", at.parent / "tasks"] if at.is_file() else [at]


def _read_folder(folder: FilePath, environment: Mapping[str, str]) -> _Parts:
    models, paths, tasks = (folder / name for name in _PARTS)
    access = folder / _ACCESS_FILE
    return (
        _validate(models, ModelsFile, _read_yaml(models, environment)),
        _validate(paths, PathsFile, _read_yaml(paths, environment)),
        _validate(tasks, TasksFile, _read_yaml(tasks, environment)),
        _validate(access, AccessFile, _read_yaml(access, environment)) if access.is_file() else AccessFile(),
    )


def _read_single(file: FilePath, environment: Mapping[str, str]) -> tuple[_Parts, dict[str, str]]:
    data = _read_yaml(file, environment)
    if not isinstance(data, dict):
        raise ConfigError(f"{file} holds no keys; known: {', '.join(_SINGLE_FILE_KEYS)}")
    if "config" in data:
        raise ConfigError(f"{file} says that the configuration is in {file.parent / str(data['config'])}; name that")
    unknown = [str(key) for key in data if key not in _SINGLE_FILE_KEYS]
    if unknown:
        raise ConfigError(f"{file}: unknown key '{unknown[0]}'; known here: {', '.join(_SINGLE_FILE_KEYS)}")

    def part(shape: type[File]) -> File:
        return _validate(file, shape, {key: data[key] for key in shape.model_fields if key in data})

    prompts = _validate(file, _InlinePrompts, {"prompts": data.get("prompts", {})}).prompts
    return (part(ModelsFile), part(PathsFile), part(TasksFile), part(AccessFile)), prompts


def _load(folder: FilePath, parts: _Parts, inline_prompts: Mapping[str, str]) -> Config:
    models, paths, tasks, access = parts
    if not tasks.default_path and len(paths.paths) == 1:
        tasks = tasks.model_copy(update={"default_path": next(iter(paths.paths))})
    prompts = {file.name: read_text(file) for file in sorted((folder / "prompts").glob("*")) if file.is_file()}
    for name in prompts.keys() & inline_prompts.keys():
        raise ConfigError(f"prompt '{name}' is in {SINGLE_FILE} and in {folder / 'prompts'}; keep one of them")
    prompts |= inline_prompts
    check_files(models, paths, tasks, prompts)
    examples = {name: _examples_of(name, task, folder) for name, task in tasks.tasks.items()}
    out_of_scope = read_out_of_scope(folder, tasks.classifier.out_of_scope)
    check_examples(examples, paths)
    check_out_of_scope(out_of_scope, examples)
    revision = _digest(models, paths, tasks, examples, out_of_scope, prompts, access)
    return Config(folder, models, paths, tasks, examples, out_of_scope, prompts, access, revision)


def _examples_of(name: str, task: TaskConfig, folder: FilePath) -> tuple[Example, ...]:
    if isinstance(task.examples, str):
        return read_examples(folder / task.examples)
    return tuple(
        to_example(row.model_dump(exclude_unset=True), f"tasks.yaml: task '{name}': example {number}")
        for number, row in enumerate(task.examples, 1)
    )


def _read_yaml(file: FilePath, environment: Mapping[str, str]) -> Any:
    try:
        text = read_text(file)
    except FileNotFoundError:
        raise ConfigError(f"{file} is missing") from None
    try:
        return strict_yaml.load(text, environment)
    except UnsetVariable as error:
        raise ConfigError(
            f"{file}:{error.line} needs the environment variable {error.name}, which is not set; set it, or write a "
            f"default: ${{{error.name}:-DEFAULT}}"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error


def _validate(file: FilePath, shape: type[File], data: Any) -> File:
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(explain(file, shape, item) for item in error.errors())) from error


def _digest(*parts: Any) -> str:
    """Returns a hash of the configuration's parts."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update((part.model_dump_json() if isinstance(part, BaseModel) else repr(part)).encode())
    return digest.hexdigest()
