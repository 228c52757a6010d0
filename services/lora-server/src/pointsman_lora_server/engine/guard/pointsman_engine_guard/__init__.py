"""The guard: ASGI middleware inside vLLM's API server, loaded by `--middleware pointsman_engine_guard.Guard`.

It imports only the standard library, and vLLM when it runs there. A lora-server that starts vLLM itself puts this
folder on its PYTHONPATH; into the environment of any other vLLM, install the wheel pointsman-engine-guard.
"""

from .asgi import Guard

__all__ = ["Guard"]
