"""OpenAI's format, which most engines use: bodies of requests, and events of answers."""
