"""Calls engines: chooses one that serves the path's model, sends it the prompt, and reads the streamed answer."""
