"""OpenAI's format, which most engines have: bodies of requests, and events of answers."""
