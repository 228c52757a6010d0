"""What an adapter must be before the engine may see it: the engine itself accepts much that it then serves wrongly."""
