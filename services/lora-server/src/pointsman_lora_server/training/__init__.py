"""Trains adapters: `python -m pointsman_lora_server.training`, in the engine's environment.

data, preferences -> dataset (batches, data_report) -> learner -> loop -> evaluation -> adapter_folder

The package imports only the standard library, and torch, transformers, PEFT and TRL where the model is needed.
`methods` lists the training methods and says how to add one.
"""
