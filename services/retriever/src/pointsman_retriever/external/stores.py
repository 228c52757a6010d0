"""The interface of external stores, the registry of its implementations, and their configuration.

To add a store, write a module with a class and add one line to EXTERNAL_STORES. Without changing this package, name
`module:attribute` in the configuration, or publish the class as an entry point of the group
`pointsman.external_stores`. Every implementation must pass the tests in tests/retriever/external_conformance.py.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import yaml
from pointsman_servicekit import strict_yaml
from pointsman_servicekit.errors import FailedPrecondition
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pointsman_retriever.domain import DEFAULT_TENANT, NAME_PATTERN, CollectionId, Vectors

GROUP = "pointsman.external_stores"
EXTERNAL_STORES: Mapping[str, str] = {
    "qdrant": "pointsman_retriever.external.qdrant:QdrantCollection",
    "pgvector": "pointsman_retriever.external.pgvector:PgvectorTable",
    "elasticsearch": "pointsman_retriever.external.elasticsearch:ElasticsearchIndex",
    "opensearch": "pointsman_retriever.external.elasticsearch:OpensearchIndex",
    "milvus": "pointsman_retriever.external.milvus:MilvusCollection",
}
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN.pattern}$")]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,127}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExternalFields(_Strict):
    """The names of the external store's fields that hold the parts of a passage, such as its text."""

    text: FieldName
    source: FieldName | None = Field(default=None, description="the field by which a passage is cited; unset: its id")
    title: FieldName | None = None
    vector: FieldName | None = Field(
        default=None, description="unset: the only vector field; if there is none, searches are by words"
    )
    metadata: tuple[FieldName, ...] = Field(default=(), description="more fields to return with a passage")

    @property
    def read(self) -> list[str]:
        """Returns the distinct names of the fields to read for each hit; the vector is not read."""
        return list(dict.fromkeys(name for name in (self.text, self.source, self.title, *self.metadata) if name))


class ExternalCollectionConfig(_Strict):
    store: str = Field(description=f"{', '.join(EXTERNAL_STORES)}, the name of an entry point, or module:attribute")
    url: str = Field(min_length=1, description="the store's URL, without a password")
    name: str = Field(default="", description="the store's collection, table or index; empty: the collection's name")
    api_key_env: str = Field(default="", description="the environment variable with the store's key, token or password")
    tenant: Name = DEFAULT_TENANT
    timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    fields: ExternalFields


@dataclass(frozen=True, slots=True)
class ExternalOptions:
    """The arguments to open an external store: URL, name of the collection in the store, key, timeout and fields."""

    url: str = field(repr=False)
    name: str
    key: str = field(repr=False)
    """The store's API key, token or password; empty if there is none."""
    timeout_seconds: float
    fields: ExternalFields


@dataclass(frozen=True, slots=True)
class Layout:
    """The ways in which an external store can search one collection: by vectors with `dimensions` dimensions, and by
    words.

    `documents` is the number of documents.
    """

    dimensions: int
    """Number of dimensions of the store's vectors; 0 if the store has no vectors."""
    has_words: bool
    """Whether the store can rank documents by the words of a query."""
    documents: int = 0


@dataclass(frozen=True, slots=True)
class Hit:
    id: str
    fields: Mapping[str, Any]
    score: float
    """The passage's score: the cosine after a search by vectors, and the store's own score after a search by words."""


class ExternalStore(Protocol):
    """Interface of one collection in an external store; its methods block, and write nothing.

    Several threads may call the methods. `read_layout` is called before any search; it raises LookupError, with a
    message for the user, if the collection or a field is missing or cannot be used. Methods may raise any other error
    if the store fails.
    """

    def read_layout(self) -> Layout: ...

    def by_meaning(self, vector: Vectors, count: int) -> Sequence[Hit]:
        """Returns at most `count` passages nearest to a unit vector, nearest first.

        Not called if `Layout.dimensions` is 0.
        """

    def by_words(self, text: str, count: int) -> Sequence[Hit]:
        """Returns at most `count` passages that match words of `text`, best first.

        Not called if `Layout.has_words` is false.
        """

    def close(self) -> None: ...


def require_fields(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raises LookupError if a field of `wanted` is not in `known`; for a field "a.b", "a" is enough.

    `where` is the subject of the message, such as "table public.docs".
    """
    for name in wanted:
        if name not in known and name.partition(".")[0] not in known:
            raise LookupError(f"{where} has no field '{name}'; it has: {', '.join(sorted(known)[:30])}")


def read_external(file: Path | None) -> Mapping[CollectionId, ExternalCollectionConfig]:
    """Reads the external collections under the key `collections` of a YAML file, such as pointsman.yaml.

    Entries that are no mapping, such as folders that `pointsman up` ingests, are ignored. Returns an empty mapping if
    `file` is None. Raises FailedPrecondition ("invalid_external_collection") if the file cannot be read, has no mapping
    under the key, or has a mapping in it that is not a valid ExternalCollectionConfig.
    """
    if file is None:
        return {}
    try:
        content = strict_yaml.load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _invalid(f"{file} cannot be read as YAML: {error}") from error
    written = content.get("collections") if isinstance(content, dict) else None
    if not isinstance(written, dict):
        raise _invalid(f"{file} has no `collections`: {{NAME: {{store: ..., url: ..., fields: {{text: ...}}}}}}")
    found = {}
    for name, entry in written.items():
        if isinstance(entry, dict):
            config = _parse(f"{file}: collections.{name}", entry)
            found[CollectionId(config.tenant, str(name))] = config
    return found


def _parse(where: str, entry: Mapping[str, Any]) -> ExternalCollectionConfig:
    try:
        return ExternalCollectionConfig.model_validate(entry)
    except ValidationError as error:
        # An unknown key is the likely cause of one that is missing.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ExternalFields if len(first["loc"]) > 1 else ExternalCollectionConfig
            raise _invalid(f"{where}: unknown key '{key}'; known: {', '.join(known.model_fields)}") from error
        raise _invalid(f"{where}: '{key}': {first['msg']}") from error


def to_options(collection: CollectionId, config: ExternalCollectionConfig) -> ExternalOptions:
    """Returns the options of an external store, with the key from the environment variable that `config` names.

    The key is empty if `config` names none. Raises FailedPrecondition ("invalid_external_collection") if the variable
    is not set or empty.
    """
    key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
    if config.api_key_env and not key:
        raise _invalid(
            f"collection '{collection}' needs the environment variable {config.api_key_env}, which is not set"
        )
    return ExternalOptions(config.url, config.name or collection.name, key, config.timeout_seconds, config.fields)


def _invalid(message: str) -> FailedPrecondition:
    return FailedPrecondition(message, code="invalid_external_collection", param="POINTSMAN_RETRIEVER_COLLECTIONS")
