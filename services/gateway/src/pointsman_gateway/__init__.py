"""The gateway: chooses a path (model, adapter and prompt) for each request, answers it, and meters its cost."""
