"""Stands in front of vLLM's API server, inside its process: `--middleware pointsman_engine_guard.Guard`.

It imports the standard library, and vLLM where that is what it stands in front of. Its folder goes on the engine's
PYTHONPATH, so that nothing needs to be installed there.
"""

from .asgi import Guard

__all__ = ["Guard"]
