"""`pointsman jobs`: the trainings of a lora-server."""
