"""The lora-server: loads adapters into one inference engine, reports the engine's state to gateways, and trains
adapters.
"""
