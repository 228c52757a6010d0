"""The adapter store: STORE/NAME/HASH12/ holds an adapter that never changes, named by its content."""

from pointsman_lora_server.store.content import content_hash
from pointsman_lora_server.store.keeping import ArtifactStore

__all__ = ["ArtifactStore", "content_hash"]
