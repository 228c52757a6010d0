"""Calls engines: choosing one of a group, sending the prompt, reading the stream of chunks."""
