"""The trainer of LoRA adapters, a program that runs in the Python environment of the engine (vLLM): `python -m
pointsman_lora_server.training`.

`data` and `methods.dpo` read the rows of training data, `dataset` encodes the rows as token ids, `learner` loads the
base model and the adapter, `loop` trains the adapter, `evaluation` scores its answers and `adapter_folder` writes its
files. The package `methods` has the training methods and says how to add one.

Only the modules that use the model or its tokenizer import torch, transformers, PEFT or TRL; all others import the
standard library alone.
"""
