"""The lora-server: stands beside one vLLM engine, loads adapters into it, reports its state, and trains adapters."""
