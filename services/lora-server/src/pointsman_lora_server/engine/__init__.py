"""The engine: vLLM as a child process, the guard in front of it, and what the lora-server asks of both."""
