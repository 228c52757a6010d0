"""Reads a configuration with its example files into one `Config`, or reports what is wrong with it.

The configuration is a folder with models.yaml, paths.yaml, tasks.yaml and an optional access.yaml, or one file,
pointsman.yaml, with the keys of all four.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path as FilePath
from typing import Any, TypeVar, get_origin

import yaml
from pointsman_embedding import EncoderConfig
from pointsman_servicekit import strict_yaml
from pointsman_servicekit.yaml_variables import UnsetVariable
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from pointsman_gateway.config.access_file import AccessFile
from pointsman_gateway.config.checks import check_files
from pointsman_gateway.config.field_types import ConfigError, ExtensionConfig, Strict
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.config.tasks_file import FILE_TAG, ROWS_TAG, TaskConfig, TasksFile
from pointsman_gateway.extensions import Example

__all__ = ["Config", "ConfigError", "Example", "load_config", "normalized_text"]

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


def read_text(file: FilePath) -> str:
    """Reads a UTF-8 file, with or without a byte order mark. Raises ConfigError."""
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error}") from error


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the lines that are not blank with their numbers, counted from 1.

    Only a line feed ends a line: JSON strings may hold Unicode's other line separators, such as U+2028, unescaped.
    """
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def read_examples(file: FilePath) -> tuple[Example, ...]:
    """Reads a JSON lines file of objects with "text" and perhaps "output". Raises ConfigError."""
    if not file.is_file():
        raise ConfigError(f"{file} is missing (a task's examples)")
    rows = []
    for number, line in numbered_lines(read_text(file)):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{file}:{number} is not JSON: {error}") from error
        rows.append(_to_example(row, f"{file}:{number}"))
    return tuple(rows)


def _to_example(row: Any, where: str) -> Example:
    """Converts a row to an example; raises ConfigError, whose message `where` begins."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise ConfigError(f'{where} must be an object with a non-empty "text"')
    output = row.get("output")
    if not (output is None or isinstance(output, str)):
        output = json.dumps(output, ensure_ascii=False)
    try:
        f"{row['text']}{output}".encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where} holds half of a surrogate pair, which is no character") from error
    return Example(row["text"], output)


def check_examples(examples: Mapping[str, tuple[Example, ...]], paths: PathsFile) -> None:
    """Checks that each task has enough examples and shares none with another task. Raises ConfigError."""
    texts = {task: {normalized_text(row.text): row.text for row in rows} for task, rows in examples.items()}
    for task, different in texts.items():
        if len(different) < 2:
            raise ConfigError(f"task '{task}' has {len(different)} example(s), repetitions aside; write two or more")
    for one, other in combinations(texts, 2):
        shared = [text for normalized, text in texts[one].items() if normalized in texts[other]]
        if shared:
            raise ConfigError(
                f"tasks '{one}' and '{other}' share {len(shared)} example(s), case and spaces aside: "
                f"{shared[0][:80]!r}; an example belongs to one task"
            )
    for name, path in paths.paths.items():
        for strategy in path.strategies:
            for task, count in strategy.resources.examples:
                usable = sum(row.output is not None for row in examples[task])
                if usable < count:
                    raise ConfigError(
                        f"paths.yaml: path '{name}' wants {count} examples of task '{task}' that have an output; "
                        f"it has {usable}"
                    )


def check_out_of_scope(out_of_scope: Iterable[str], examples: Mapping[str, tuple[Example, ...]]) -> None:
    """Checks that no out-of-scope text is an example of a task. Raises ConfigError."""
    owner = {normalized_text(row.text): task for task, rows in examples.items() for row in rows}
    for text in out_of_scope:
        if normalized_text(text) in owner:
            raise ConfigError(
                f"the out-of-scope text {text[:80]!r} is an example of task '{owner[normalized_text(text)]}' too"
            )


def normalized_text(text: str) -> str:
    """Returns the text in a form that is equal for texts that differ only in case, spaces or Unicode composition."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


class _InlinePrompts(Strict):
    prompts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Config:
    """One revision of the configuration, checked as a whole."""

    folder: FilePath
    """Relative file names are relative to it."""
    models: ModelsFile
    paths: PathsFile
    tasks: TasksFile
    examples: Mapping[str, tuple[Example, ...]]
    """By task."""
    out_of_scope: tuple[str, ...]
    """Texts that belong to no task."""
    prompts: Mapping[str, str]
    """Template text by name."""
    access: AccessFile
    digest: str
    """A hash of everything that was read. Equal digests mean equal configurations."""

    @property
    def encoder(self) -> EncoderConfig | None:
        """Returns the classifier's embedding model, its folder as an absolute path; None stands for MiniLM."""
        return self.models.embedding.relative_to(self.folder) if self.models.embedding else None

    def sharing_examples(self, earlier: "Config") -> "Config":
        """Returns this configuration with the unchanged examples of an earlier one, whose objects it then shares.

        Otherwise each reload would replace thousands of small objects, and fragment the memory that they are in.
        """
        known = earlier.examples
        return replace(self, examples={n: known[n] if known.get(n) == new else new for n, new in self.examples.items()})


def load_config(at: FilePath, environment: Mapping[str, str] = os.environ) -> Config:
    """Reads the folder or file `at`, replaces `${VARIABLE}` from `environment`, and compares its parts.

    Raises ConfigError.
    """
    single = single_file(at)
    if single is None:
        return _load(at, _read_folder(at, environment), {})
    try:
        return _load(single.parent, *_read_single(single, environment))
    except ConfigError as error:  # the checks name the files that a folder has
        raise ConfigError(_PART_FILE.sub(single.name, str(error))) from error


def single_file(at: FilePath) -> FilePath | None:
    """Returns the file that is the whole configuration; None if it is a folder of several. Raises ConfigError."""
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
    """Returns the folders and files whose change is a change of the configuration `at`.

    If it is one file, other files in its folder need not belong to it.
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
    out_of_scope = _read_out_of_scope(folder, tasks.classifier.out_of_scope)
    check_examples(examples, paths)
    check_out_of_scope(out_of_scope, examples)
    digest = _digest(models, paths, tasks, examples, out_of_scope, prompts, access)
    return Config(folder, models, paths, tasks, examples, out_of_scope, prompts, access, digest)


def _examples_of(name: str, task: TaskConfig, folder: FilePath) -> tuple[Example, ...]:
    if isinstance(task.examples, str):
        return read_examples(folder / task.examples)
    return tuple(
        _to_example(row.model_dump(), f"tasks.yaml: task '{name}': example {number}")
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
            f"{file}:{error.line} needs the environment variable {error.name}, which is not set"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from error


def _validate(file: FilePath, shape: type[File], data: Any) -> File:
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(file, shape, item) for item in error.errors())) from error


def _explain(file: FilePath, shape: type[BaseModel], item: Any) -> str:
    """Writes one of pydantic's errors as a message that names the file and the key."""
    key = ".".join(str(part) for part in item["loc"] if part not in (FILE_TAG, ROWS_TAG))
    if item["type"] == "extra_forbidden":
        return f"{file}: unknown key '{key}'; known here: {', '.join(_known_keys(shape, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{file}: '{key}' is missing"
    if not key:  # a check of the whole file, which is too long to be shown
        return f"{file}: {item['msg'].removeprefix('Value error, ')}"
    return f"{file}: '{key}': {item['msg']} (it is {item['input']!r})"


def _known_keys(shape: Any, location: Iterable[str | int]) -> list[str]:
    """Returns the keys that are known at a location: the fields of the model found by following it from `shape`."""
    is_name = False
    """Whether the next part is a name that the user chose, which may be that of a field."""
    for part in location:
        if isinstance(part, int) or is_name:
            is_name = False
            continue
        if isinstance(shape, type) and issubclass(shape, ExtensionConfig):
            shape = shape.registry.find(part).Options
            continue
        fields = getattr(shape, "model_fields", None)
        annotation = fields[part].annotation if fields and part in fields else shape
        is_name = get_origin(annotation) is dict
        shape = next((m for m in _models_in(annotation)), shape)
    return list(getattr(shape, "model_fields", {}))


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _read_out_of_scope(folder: FilePath, name: str) -> tuple[str, ...]:
    return tuple(example.text for example in read_examples(folder / name)) if name else ()


def _digest(*parts: Any) -> str:
    """Returns a hash of the configuration's parts. Raises ConfigError if one cannot be encoded."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        try:
            text = part.model_dump_json() if isinstance(part, BaseModel) else repr(part)
        except PydanticSerializationError as error:
            name = type(part).__name__.removesuffix("File").lower()
            problem = "hold half of a surrogate pair, such as \\ud800, which is no character"
            raise ConfigError(f"the configuration's {name} {problem}") from error
        digest.update(text.encode())
    return digest.hexdigest()
