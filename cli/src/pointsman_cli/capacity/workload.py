"""What is asked for: how many requests of which sort, and how soon their first tokens are wanted. YAML."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from pointsman_cli.capacity.strict import Strict, read

Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]


class PathLoad(Strict):
    """One path's part of the requests."""

    share: float = Field(gt=0, le=1)
    prompt_tokens: int = Field(ge=1, description="in the mean")
    cached_share: float = Field(default=0.0, ge=0, lt=1, description="of them, what the engine has read before")
    completion_tokens: int = Field(ge=1, description="in the mean")
    adapters: int = Field(default=0, ge=0, description="how many different ones this path's requests want")
    searches: int = Field(default=0, ge=0, description="a request")
    classified: bool = Field(default=True, description="false: its requests name it")


class Workload(Strict):
    requests_per_second: float = Field(gt=0, description="at the busiest hour")
    busy_hours: float = Field(default=24.0, gt=0, le=24, description="a day's requests, as hours of the busiest")
    paths: dict[Name, PathLoad] = Field(min_length=1)
    chunks: int = Field(default=0, ge=0, description="that the retriever holds")
    skew: float = Field(default=1.1, gt=0, description="of Zipf's law, by which adapters are asked for")
    first_token_seconds: float = Field(gt=0, description="which 95 % of the first tokens must keep")
    spare: int = Field(default=1, ge=0, description="of each part, more than the load needs: one may be lost")

    @model_validator(mode="after")
    def _all_shares(self) -> "Workload":
        total = sum(path.share for path in self.paths.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the paths add up to {total:g}; they must to 1")
        return self


def read_workload(file: Path) -> Workload:
    """Raises CommandError."""
    return read(file, Workload)
