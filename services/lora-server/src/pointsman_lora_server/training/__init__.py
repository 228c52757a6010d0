"""Trains adapters: `python -m pointsman_lora_server.training`, in the engine's environment.

data, methods.dpo -> dataset (batches, data_report) -> learner -> loop -> evaluation -> adapter_folder

The package imports only the standard library, and torch, transformers, PEFT and TRL in the modules that need the model.
`methods` contains the training methods and says how to add one.
"""
