"""Trains a LoRA adapter on conversations: `python -m pointsman_lora_server.training`, in the engine's environment.

data -> batches -> base -> loop -> heldout -> adapter_files
rows    plan       weights steps  loss, samples   folder
"""
