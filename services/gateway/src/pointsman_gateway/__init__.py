"""The gateway: chooses a path for each request, answers along it, and meters what that cost."""
