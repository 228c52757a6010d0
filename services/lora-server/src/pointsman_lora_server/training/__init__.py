"""Trains an adapter on conversations or preferences: `python -m pointsman_lora_server.training`, where torch is.

data, preferences -> material (batches, examination) -> learner -> loop -> evaluation -> adapter_files
rows                 tokens, what they are like         weights    steps   beside the    folder
                                                                           prompt path
"""
