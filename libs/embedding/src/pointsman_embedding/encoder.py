"""The encoder that the configuration names under `embedding`: a folder with an ONNX file, an endpoint, or the
multilingual model of the extra `multilingual`. Examples:

embedding: {multilingual: true}
embedding: {folder: models/multilingual-e5-small, multilingual: true}
embedding: {url: "http://tei:8080", model: BAAI/bge-m3, api_key_env: TEI_KEY}
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import yaml
from pointsman_servicekit import strict_yaml
from pointsman_servicekit.errors import FailedPrecondition
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:  # who reads only a configuration needs neither
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer


class EncoderConfig(BaseModel):
    """The embedding model that the classifier and the retriever use.

    It is the model in `folder`, or the model at the endpoint `url`. If neither is set, `multilingual` must be true, and
    the model is multilingual-e5-small from the package of the extra "multilingual".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(
        default=None,
        description="a sentence encoder's folder, with model.onnx or onnx/model.onnx and tokenizer.json; a relative "
        "path begins at the configuration",
    )
    url: str = Field(default="", pattern=r"^(https?://.+)?$", description="an OpenAI-compatible endpoint's URL")
    model: str = Field(default="", description="the endpoint's name for the model")
    api_key_env: str = Field(default="", description="the environment variable with the endpoint's key")
    timeout_seconds: float = Field(default=5.0, gt=0, le=60, description="of one call to the endpoint with its retries")
    query_prefix: str | None = Field(
        default=None,
        description='text before each query and each example, such as "query: "; unset: that of the folder\'s '
        "config_sentence_transformers.json, or none",
    )
    passage_prefix: str | None = Field(default=None, description="text before each passage, likewise")
    multilingual: bool = Field(
        default=False,
        description="true: messages in every language are classified; without folder and url by "
        "multilingual-e5-small, which needs the extra multilingual",
    )

    @model_validator(mode="after")
    def _names_one_model(self) -> "EncoderConfig":
        if (self.folder and self.url) or not (self.folder or self.url or self.multilingual):
            raise ValueError(
                "embedding needs a folder, or a url with a model, or multilingual: true; a folder excludes a url"
            )
        if bool(self.url) != bool(self.model):
            raise ValueError(
                "embedding.url and embedding.model, the model's name at the endpoint, must be set together"
            )
        if not self.url and self.api_key_env:
            raise ValueError("embedding.api_key_env is set without embedding.url; only an endpoint needs a key")
        return self

    def relative_to(self, folder: Path) -> "EncoderConfig":
        """Returns a copy in which the model's `folder` is absolute: it is resolved relative to the argument `folder`.

        Returns this object itself if it names no folder.
        """
        return self.model_copy(update={"folder": (folder / self.folder).resolve()}) if self.folder else self


class Encoder(Protocol):
    """Interface of embedding models that may be shared between threads.

    MiniLM, OnnxEncoder, MultilingualEncoder and EndpointEncoder implement it.
    """

    fingerprint: str
    """The model's name; the vectors of two encoders can be compared if their fingerprints are equal."""
    dimensions: int
    max_tokens: int
    """The model reads at most this many tokens of a text, special ones included, as `tokenizer` counts them."""
    query_prefix: str
    """Text that the caller should put before each query; may be empty. `passage_prefix` is the text for passages."""
    passage_prefix: str

    @property
    def tokenizer(self) -> "Tokenizer": ...

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Returns a vector of length 1 for each of n texts: an array (n, dimensions).

        Adds no prefix, and ignores the end of a text that is too long for the model. Raises Unavailable if a model at
        an endpoint does not answer.
        """
        ...


class Prefixed:
    """Wraps an encoder: `embed` puts a prefix such as "query: " before each text.

    The only attributes are the encoder's `fingerprint` and `dimensions`.
    """

    def __init__(self, encoder: Encoder, prefix: str) -> None:
        self.fingerprint, self.dimensions = encoder.fingerprint, encoder.dimensions
        self._encoder, self._prefix = encoder, prefix

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        return self._encoder.embed([self._prefix + text for text in texts] if self._prefix else texts)


class ModelMissing(FileNotFoundError):
    """Raised if a folder does not contain a complete, undamaged embedding model of the current version."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"no embedding model in {folder}: {reason}; make it with `python -m pointsman_embedding.prepare {folder}`"
        )
        self.folder = folder
        self.reason = reason


def unusable(message: str) -> FailedPrecondition:
    """Returns a FailedPrecondition ("invalid_embedding") with `message`, to raise if the configured encoder is
    unusable.
    """
    return FailedPrecondition(message, code="invalid_embedding", param="embedding")


def read_encoder_config(file: Path) -> EncoderConfig | None:
    """Reads the key `embedding` of a YAML file, such as models.yaml; returns None if the file does not have it.

    `${VARIABLE}` is replaced from the environment, as in the gateway's configuration. A variable that is not set counts
    as empty, because other keys of the file may need variables that only the gateway has. The model's folder is made
    absolute, relative to the file. Raises FailedPrecondition if the file cannot be read, or the value of `embedding` is
    not valid.
    """
    try:
        text = file.read_text("utf-8-sig")
        content = strict_yaml.load(text, os.environ, unset="")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise unusable(f"{file} cannot be read as YAML: {error}") from error
    written = content.get("embedding") if isinstance(content, dict) else None
    if written is None:
        return None
    try:
        return EncoderConfig.model_validate(written).relative_to(file.parent)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["embedding", *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            raise unusable(f"{file}: unknown key '{key}'; known: {', '.join(EncoderConfig.model_fields)}") from error
        raise unusable(f"{file}: '{key}': {first['msg']}") from error


def open_encoder(config: EncoderConfig | None, minilm: Path) -> Encoder:
    """Loads the configured encoder; if `config` is None, the built-in MiniLM from the folder `minilm`.

    An encoder at an endpoint needs `minilm` too, since MiniLM's tokenizer counts the tokens of texts for it. Raises
    ModelMissing if `minilm` is needed and is incomplete or damaged, FailedPrecondition if the configured encoder cannot
    be used, and Unavailable if the endpoint fails.
    """
    from pointsman_embedding.minilm import MiniLM

    if config is None:
        return MiniLM.load(minilm)
    if config.folder:
        from pointsman_embedding.onnx_folder import OnnxEncoder

        return OnnxEncoder.load(config)
    if not config.url:
        from pointsman_embedding.multilingual import MultilingualEncoder  # imports onnx

        return MultilingualEncoder.load(config)
    from pointsman_embedding.endpoint import EndpointEncoder  # imports httpx

    return EndpointEncoder.connect(config, MiniLM.load(minilm).tokenizer)
