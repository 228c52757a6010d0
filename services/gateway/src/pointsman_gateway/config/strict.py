"""What every part of a configuration has in common: unknown keys are refused, and nothing changes."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
