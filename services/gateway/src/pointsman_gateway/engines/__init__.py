"""Calls engines (inference servers): chooses an engine that serves the path's model or adapter, sends it the prompt,
and reads the streamed answer.
"""
