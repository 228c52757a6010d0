"""`pointsman train`: trains a LoRA adapter on examples."""
