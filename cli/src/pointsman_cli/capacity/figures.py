"""What one of each part does, as it was measured: the ground that everything else stands on. YAML."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pointsman_cli.capacity.strict import Strict, read

Seconds = Annotated[float, Field(ge=0)]


class EngineFigures(Strict):
    """One engine's step: `step + row * answers + prompt_token * tokens read`, in seconds.

    That is continuous batching as vLLM does it (Yu et al., Orca, OSDI 2022; Kwon et al., SOSP 2023): each step gives
    every running answer one token, and reads as much of new prompts as fits beside them.
    """

    step: Seconds = Field(description="of a step, whatever is in it")
    row: Seconds = Field(description="more, for each answer that gets a token")
    prompt_token: Seconds = Field(description="more, for each token of a prompt that is read")
    adapter_row: Seconds = Field(description="as row, for an answer with an adapter")
    adapter_prompt_token: Seconds = Field(description="as prompt_token, for a prompt with an adapter")
    most_rows: int = Field(ge=1, description="answers at once (max_num_seqs)")
    most_tokens: int = Field(ge=1, description="in one step (max_num_batched_tokens)")
    slots: int = Field(ge=1, description="adapters that are resident at once (max_loras)")
    load: Seconds = Field(description="of an adapter that is not resident; meanwhile the engine answers others")
    dollars_per_hour: float = Field(ge=0)


class GatewayFigures(Strict):
    named: Seconds = Field(description="of a core, for a request that names its path, limits and journal included")
    classified: Seconds = Field(description="of a core, for a request that is classified, in the mean")
    token: Seconds = Field(description="of a core, more, for each piece of a streamed answer")
    redis_calls: float = Field(ge=0, description="a request, in the mean: batches are shared")
    dollars_per_hour: float = Field(ge=0, description="one core and 1 GiB")


class RetrieverFigures(Strict):
    search: Seconds = Field(description="of a core, for one search, the query's embedding included")
    chunk_bytes: float = Field(gt=0, description="of memory, with its vector, its words and its text")
    most_chunks: int = Field(ge=1, description="beyond which Milvus takes its place")
    dollars_per_hour: float = Field(ge=0, description="one core and 8 GiB")


class RedisFigures(Strict):
    calls_per_second: float = Field(gt=0, description="of one server, at half of what it can")
    dollars_per_hour: float = Field(ge=0)


class Figures(Strict):
    """Of one sort of machine."""

    about: str = Field(description="which machine, model, versions, commit and command they are of")
    engine: EngineFigures
    gateway: GatewayFigures
    retriever: RetrieverFigures
    redis: RedisFigures


def read_figures(file: Path) -> Figures:
    """Raises CommandError."""
    return read(file, Figures)
