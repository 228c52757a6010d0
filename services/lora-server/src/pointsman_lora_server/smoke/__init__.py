"""A version is tried apart from the engine: in a process of its own, with PEFT, which says what it should answer."""
