"""`pointsman train`: an adapter from examples, in the engine's environment."""
