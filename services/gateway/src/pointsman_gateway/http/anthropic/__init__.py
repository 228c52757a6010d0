"""Anthropic's Messages API: a second dialect of the requests that `http/openai/chat.py` reads."""
