"""The smoke test: a version is run with PEFT, in a process outside the engine, to learn what it should answer."""
