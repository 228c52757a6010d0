"""Stores the desired state of all engines of one base model (adapter versions, aliases, placements) in Redis. Each
change is one atomic Lua script.
"""

from pointsman_lora_server.registry.registry import AdapterRegistry

__all__ = ["AdapterRegistry"]
