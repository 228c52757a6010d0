"""Anthropic's Messages API: bodies of requests, and events of answers."""
