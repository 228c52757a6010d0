"""The bounds of sampling parameters, for every API and for the configuration."""

from typing import Annotated

from pydantic import Field

MAX_TEMPERATURE = 2.0
MAX_STOP_SEQUENCES = 4
SMALLEST_TOP_P = 1e-9
"""Of APIs that cannot say "above 0"."""

MaxTokens = Annotated[int, Field(ge=1, lt=2**63)]
Temperature = Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
