"""`pointsman train`: trains a LoRA adapter on examples of requests and answers."""
