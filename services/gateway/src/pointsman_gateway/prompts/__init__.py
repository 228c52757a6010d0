"""Builds the prompt of a request from the strategies of its path."""
