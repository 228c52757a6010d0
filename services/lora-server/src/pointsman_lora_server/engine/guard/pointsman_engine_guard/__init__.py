"""The guard: ASGI middleware inside vLLM's API server, loaded by `--middleware pointsman_engine_guard.Guard`.

It imports only the standard library, and vLLM when it runs there. Its folder is put on the engine's PYTHONPATH, so
nothing has to be installed in the engine's environment.
"""

from .asgi import Guard

__all__ = ["Guard"]
