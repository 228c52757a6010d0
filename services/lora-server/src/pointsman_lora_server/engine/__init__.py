"""The engine: vLLM as a child process, and the part of its HTTP interface that loads adapters."""
