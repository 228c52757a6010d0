"""Compares prompting with fine-tuning on the example's tasks: `make experiment`."""
