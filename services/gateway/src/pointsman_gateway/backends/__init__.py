"""Who answers? Prompt in, the engine's chunks out, straight from vLLM."""
