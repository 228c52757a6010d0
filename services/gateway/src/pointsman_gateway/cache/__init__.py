"""The answer cache: a backend that reuses earlier answers, in front of the backend that calls engines."""
