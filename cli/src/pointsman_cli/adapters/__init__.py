"""`pointsman adapters`: lists, registers and removes versions of LoRA adapters, and moves aliases between versions."""
