"""A plugin for vLLM that replaces its LoRA kernels on CPUs, which compute some rows wrongly."""
