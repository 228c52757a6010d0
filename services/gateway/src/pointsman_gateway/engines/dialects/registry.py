"""The engine dialects (API formats of engines) by name; providers.yaml assigns a dialect to each provider."""

from collections.abc import Mapping
from dataclasses import replace

from pointsman_gateway.config.providers import LITELLM
from pointsman_gateway.engines.dialects.anthropic.messages import MESSAGES
from pointsman_gateway.engines.dialects.openai.completions import OPENAI
from pointsman_gateway.engines.engine_dialect import EngineDialect

_OF_THE_SDK = replace(OPENAI, name=LITELLM)
"""LiteLLM's SDK takes and returns OpenAI's format."""

ENGINE_DIALECTS: Mapping[str, EngineDialect] = {one.name: one for one in (OPENAI, MESSAGES, _OF_THE_SDK)}
