"""The engine: vLLM as a supervised child process, its HTTP client, and the guard that runs inside vLLM."""
