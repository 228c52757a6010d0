"""The smoke test: PEFT computes answers of an adapter version, in a process outside the engine.

They are checked, and the engine's answers are later compared with them.
"""
