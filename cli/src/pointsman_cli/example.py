"""Reads `pointsman.yaml`, which describes an example folder: base model, configuration, collections and adapters.

The file may also be the gateway's configuration; then it has the gateway's keys too, such as `models` and `paths`.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pointsman_servicekit import strict_yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import locate_base_model
from pointsman_cli.errors import UsageError

EXAMPLE_FILE = "pointsman.yaml"

CONFIG_FILES = (EXAMPLE_FILE, "models.yaml", "paths.yaml", "tasks.yaml")
STRATEGIES_WITHOUT_EMBEDDING = frozenset({"zero_shot", "persona", "chain_of_thought"})

STRATEGIES = STRATEGIES_WITHOUT_EMBEDDING | {"few_shot", "retrieval"}
"""Names of the prompt strategies (ways to build a prompt) that the gateway has. Any other name is that of an extension.

Since an extension may use the retriever and the embedding model, `Example` counts them as needed then.
"""

GATEWAY_KEYS = frozenset({"models", "engines", "paths", "tasks"})
"""Top-level keys of the gateway's configuration. A pointsman.yaml with one of them, and no `config`, contains that
configuration itself.
"""

INVALID_CONTENT = (yaml.YAMLError, UnicodeDecodeError, OSError, AttributeError, LookupError, TypeError)
"""The exceptions that reading a configuration's files may raise if a file is unreadable or its content is malformed."""

NAME_PATTERN = r"[a-z0-9_-]{1,64}"
"""The regular expression that the whole name of an adapter or a collection must match; the services require it too."""

Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterEntry(_Strict):
    folder: str
    alias: Name


class ExampleFile(_Strict):
    base_model: str | None = Field(
        default=None,
        min_length=1,
        description="what the engine of `pointsman up` serves: smollm2-135m, a folder, or a name at the Hugging Face "
        "hub; unset: no engine is started",
    )
    config: str
    collections: dict[Name, str | dict[str, Any]] = Field(
        default={}, description="folders of documents; or stores that the retriever reads (docs/retriever.md)"
    )
    adapters: dict[Name, AdapterEntry] = {}


@dataclass(frozen=True, slots=True)
class ExampleAdapter:
    name: str
    folder: Path | str
    """The folder with the adapter's files, or the URL of such a folder in object storage."""
    alias: str


@dataclass(frozen=True, slots=True)
class Example:
    """The content of a folder's pointsman.yaml, which says what `pointsman up` runs: model, collections and adapters.

    All paths in it are absolute and existed when the file was read.
    """

    folder: Path
    base_model: str
    """The base model as written in the file. If empty, `pointsman up` starts no engine: the configuration names running
    engines.
    """
    config: Path
    collections: dict[str, Path]
    """The collections that are folders of documents, by name; `pointsman up` ingests them."""
    has_external_collections: bool
    adapters: tuple[ExampleAdapter, ...]

    @property
    def models_file(self) -> Path:
        """Returns the file that describes the models: pointsman.yaml in the folder `config`, else models.yaml there."""
        single = self.config / EXAMPLE_FILE
        return single if single.is_file() else self.config / "models.yaml"

    @property
    def needs_retriever(self) -> bool:
        """Returns whether the example needs the retriever: for its collections, a path that searches, or a reranker.

        A path searches if it has the strategy `retrieval`, or a strategy from an extension while the configuration
        has the key `retrieval`. A configuration that cannot be read or is malformed counts as one without paths and
        rerankers; the gateway will reject it.
        """
        if self.collections or self.has_external_collections:
            return True
        try:
            content = self._content()
            strategies = _strategies(content)
            reranks = any(model.get("retriever") for model in content.get("rerankers", {}).values())
        except INVALID_CONTENT:
            return False  # the gateway will reject it
        return reranks or "retrieval" in strategies or ("retrieval" in content and not strategies <= STRATEGIES)

    @property
    def needs_embedding_model(self) -> bool:
        """Returns whether a service may need the embedding model (text to vector), which `pointsman up` then prepares.

        The retriever, the classifier, a semantic cache, `/v1/embeddings`, or a prompt strategy may use it. Returns True
        also for a configuration that cannot be read, is not valid YAML or lacks paths.
        """
        if self.needs_retriever:
            return True
        try:
            content = self._content()
            local = any(model.get("local") for model in content.get("embeddings", {}).values())
            semantic = any("similarity_threshold" in (path.get("cache") or {}) for path in content["paths"].values())
            strategies = _strategies(content)
        except INVALID_CONTENT:
            return True
        return bool(content.get("tasks")) or local or semantic or not strategies <= STRATEGIES_WITHOUT_EMBEDDING

    def _content(self) -> dict[str, Any]:
        """Returns the top-level keys of all files of the configuration with their values.

        Raises yaml.YAMLError for a file that is not YAML, AttributeError for one that is not a mapping,
        UnicodeDecodeError for one that is not UTF-8, and OSError for one that cannot be read.
        """
        files = [file for name in CONFIG_FILES if (file := self.config / name).is_file()]
        return {key: value for file in files for key, value in strict_yaml.load(file.read_text("utf-8-sig")).items()}


def _strategies(content: dict[str, Any]) -> set[str]:
    """Returns the names of the strategies of all paths in a configuration.

    Raises AttributeError, LookupError or TypeError if the paths are missing or malformed.
    """
    return {name for path in content["paths"].values() for one in path.get("strategies", ()) for name in one}


def load_example(folder: Path) -> Example:
    """Reads a folder's pointsman.yaml.

    Raises UsageError if the file is missing or invalid, or names a folder that does not exist or a base model that
    cannot be located.
    """
    file = folder / EXAMPLE_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{folder} has no {EXAMPLE_FILE}; name a folder that has one, such as examples/helpdesk"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    try:
        content = strict_yaml.load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds no keys; known: {', '.join(ExampleFile.model_fields)}")
    if "config" not in content and GATEWAY_KEYS & content.keys():
        content = {key: content[key] for key in ExampleFile.model_fields if key in content} | {"config": "."}
    try:
        parsed = ExampleFile.model_validate(content)
    except ValidationError as error:
        raise UsageError("; ".join(f"{file}: {_explain(entry)}" for entry in error.errors())) from error
    return _resolve(parsed, folder.absolute())


def check_retriever(example: Example) -> None:
    """Raises UsageError if the example needs the retriever, and the retriever is not installed."""
    if example.needs_retriever and importlib.util.find_spec("pointsman_retriever") is None:
        raise UsageError(
            f"{example.folder} looks things up, and the retriever is not installed; pip install 'pointsman[retriever]'"
        )


def _explain(entry: object) -> str:
    assert isinstance(entry, dict)  # a pydantic ErrorDetails
    *above, last = location = [str(part) for part in entry["loc"] if part != "[key]"]
    where = ".".join(location)
    if entry["type"] == "extra_forbidden":
        model = AdapterEntry if above else ExampleFile
        inside = f" in {'.'.join(above)}" if above else ""
        return f"unknown key '{last}'{inside}; known: {', '.join(model.model_fields)}"
    if entry["type"] == "missing":
        return f"'{where}' is missing"
    if entry["type"] == "string_pattern_mismatch":
        return f"{where}: '{entry['input']}' should be 1 to 64 of a-z, 0-9, '-' and '_'"
    return f"{where}: {entry['msg']}"


def _resolve(parsed: ExampleFile, folder: Path) -> Example:
    folders = {name: at for name, at in parsed.collections.items() if isinstance(at, str)}
    collections = {name: _existing(folder, f"collections.{name}", at) for name, at in folders.items()}
    is_external = len(folders) < len(parsed.collections)
    adapters = []
    for name, entry in parsed.adapters.items():
        at = _existing(folder, f"adapters.{name}.folder", entry.folder)
        if not (at / "adapter_config.json").is_file():
            raise UsageError(
                f"{folder / EXAMPLE_FILE}: adapters.{name}.folder: {at} holds no adapter (no adapter_config.json)"
            )
        adapters.append(ExampleAdapter(name, at, entry.alias))
    if adapters and parsed.base_model is None:
        raise UsageError(f"{folder / EXAMPLE_FILE}: adapters need a base_model, such as smollm2-135m")
    if parsed.base_model is not None:
        try:
            locate_base_model(parsed.base_model, folder, DataDir(folder))
        except UsageError as error:
            raise UsageError(f"{folder / EXAMPLE_FILE}: {error}") from error
    config = _existing(folder, "config", parsed.config)
    return Example(folder, parsed.base_model or "", config, collections, is_external, tuple(adapters))


def _existing(folder: Path, key: str, named: str) -> Path:
    at = (folder / named).resolve()
    if not at.is_dir():
        raise UsageError(f"{folder / EXAMPLE_FILE}: {key}: {at} is not a folder")
    return at
