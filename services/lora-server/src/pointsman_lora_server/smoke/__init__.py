"""The smoke test: before an engine loads an adapter version, PEFT computes answers with it in another process.

The test checks these answers. Later the engine's answers are compared with them.
"""
