"""Calls engines: chooses one of a group, sends the prompt, and reads the stream of chunks."""
