"""Calls engines: chooses one that serves the path's model or adapter, sends it the prompt, and reads the streamed
answer.
"""
