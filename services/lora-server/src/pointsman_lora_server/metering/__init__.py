"""What the lora-server counts."""
