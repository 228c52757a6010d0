"""The guard: ASGI middleware inside vLLM's API server, loaded by `--middleware pointsman_engine_guard.Guard`. It hides
vLLM's private routes and manages adapters.

It imports only the standard library, and vLLM when it runs inside vLLM. A lora-server that starts vLLM itself puts this
folder on vLLM's PYTHONPATH. For any other vLLM, install the wheel pointsman-engine-guard into its environment.
"""

from .asgi import Guard

__all__ = ["Guard"]
