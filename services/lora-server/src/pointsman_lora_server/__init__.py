"""The lora-server: stands beside one vLLM engine, feeds it adapters and says what is true; trains adapters."""
