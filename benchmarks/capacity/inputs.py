"""The YAML files of capacity planning: the workload, the figures of one machine, and the measured runs."""

from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pointsman_servicekit import strict_yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]


class CapacityError(Exception):
    """An input is wrong, or no plan is possible; the message says what to change."""


class StrictModel(BaseModel):
    """A model of a file's part that rejects unknown keys and infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EngineFigures(StrictModel):
    """The time of one engine step: `step + row * answers + prompt_token * tokens read`, in seconds.

    This models continuous batching as vLLM does it (Yu et al., Orca, OSDI 2022; Kwon et al., SOSP 2023): each step
    gives every running answer one token and reads as many tokens of new prompts as fit into the rest of the batch.
    """

    step_seconds: Seconds = Field(description="fixed part of a step")
    row_seconds: Seconds = Field(description="added for each answer that gets a token")
    prompt_token_seconds: Seconds = Field(description="added for each prompt token that is read")
    adapter_row_seconds: Seconds = Field(description="row_seconds of an answer with an adapter")
    adapter_prompt_token_seconds: Seconds = Field(description="prompt_token_seconds of a prompt with an adapter")
    max_num_seqs: int = Field(ge=1, description="answers in one batch (vLLM's setting of this name)")
    max_num_batched_tokens: int = Field(ge=1, description="tokens in one step (vLLM's setting of this name)")
    max_loras: int = Field(ge=1, description="adapters resident at once")
    adapter_load_seconds: Seconds = Field(description="loading an adapter; the engine answers others meanwhile")
    usd_per_hour: float = Field(ge=0)


class GatewayFigures(StrictModel):
    """What a request costs the gateway, in seconds of one core."""

    named_seconds: Seconds = Field(description="a request that names its path, with limits and request log")
    classified_seconds: Seconds = Field(description="a request that is classified, on average")
    token_seconds: Seconds = Field(description="added for each chunk of a streamed answer")
    redis_calls_per_request: float = Field(ge=0, description="on average; calls are batched")
    usd_per_hour: float = Field(ge=0, description="one core and 1 GiB")


class RetrieverFigures(StrictModel):
    search_seconds: Seconds = Field(description="one search, in seconds of a core, with the query's embedding")
    chunk_bytes: float = Field(gt=0, description="memory for one chunk: vector, terms and text")
    max_chunks: int = Field(ge=1, description="above this, Milvus should hold the collections")
    usd_per_hour: float = Field(ge=0, description="one core and 8 GiB")


class RedisFigures(StrictModel):
    max_calls_per_second: float = Field(gt=0, description="one server at half of its limit")
    usd_per_hour: float = Field(ge=0)


class Figures(StrictModel):
    """Performance and price of each service on one kind of machine."""

    about: str = Field(description="machine, model, versions, commit and command of the measurement")
    engine: EngineFigures
    gateway: GatewayFigures
    retriever: RetrieverFigures
    redis: RedisFigures


class PathLoad(StrictModel):
    """The share of the requests that one path gets, and the sizes of these requests."""

    share: float = Field(gt=0, le=1)
    prompt_tokens: int = Field(ge=1, description="on average")
    cached_share: float = Field(default=0.0, ge=0, lt=1, description="share of the prompt in the engine's prefix cache")
    completion_tokens: int = Field(ge=1, description="on average")
    adapters: int = Field(default=0, ge=0, description="how many different adapters the requests use")
    searches: int = Field(default=0, ge=0, description="per request")
    classified: bool = Field(default=True, description="false if requests name the path")


class Workload(StrictModel):
    requests_per_second: float = Field(gt=0, description="in the busiest hour")
    busy_hours: float = Field(default=24.0, gt=0, le=24, description="requests of a day, as hours of the busiest one")
    paths: dict[Name, PathLoad] = Field(min_length=1)
    chunks: int = Field(default=0, ge=0, description="held by the retriever")
    zipf_exponent: float = Field(default=1.1, gt=0, description="of the distribution of requests over adapters")
    first_token_seconds: float = Field(gt=0, description="limit for the 95th percentile of the time to first token")
    spare_replicas: int = Field(default=1, ge=0, description="of each service, beyond what the load needs")

    @model_validator(mode="after")
    def _check_shares(self) -> "Workload":
        total = sum(path.share for path in self.paths.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the paths add up to {total:g}; they must add up to 1")
        return self


class MeasuredRun(StrictModel):
    """One closed-loop run of one real engine."""

    name: str
    clients: int = Field(ge=1)
    path: PathLoad
    tokens_per_second: float = Field(gt=0, description="generated, all clients together")
    total_p50: float = Field(gt=0, description="median of the seconds for a whole answer")
    fitted: bool = Field(default=False, description="whether the engine's figures were fitted to this run")


class Measurements(StrictModel):
    about: str
    runs: tuple[MeasuredRun, ...] = Field(min_length=1)


Model = TypeVar("Model", bound=StrictModel)


def read(file: Path, model: type[Model]) -> Model:
    """Reads a YAML file; raises CapacityError with the file, the key, the value and what would be accepted."""
    try:
        return model.model_validate(strict_yaml.load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise CapacityError(f"{file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CapacityError(f"{file} is not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']} (it is {one['input']!r:.60})"
            for one in error.errors()
        )
        raise CapacityError(f"{file}: {problems}") from error
