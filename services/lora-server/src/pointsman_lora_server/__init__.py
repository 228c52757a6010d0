"""The lora-server of one engine: loads adapters into the engine, reports the engine's state, and trains adapters."""
