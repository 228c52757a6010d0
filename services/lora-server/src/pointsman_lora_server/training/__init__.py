"""Trains adapters: `python -m pointsman_lora_server.training`, in the engine's environment.

`data` and `methods.dpo` read the rows, `dataset` encodes them, `learner` loads the model, `loop` trains it,
`evaluation` scores the result and `adapter_folder` writes it. `methods` has the training methods and says how to add
one.

Only the modules that need the model or its tokenizer import torch, transformers, PEFT or TRL; all others need the
standard library alone.
"""
