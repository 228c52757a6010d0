"""The artifact store: STORE/NAME/HASH12/ contains an immutable adapter that is named by its content."""

from pointsman_lora_server.store.artifact_store import ArtifactStore
from pointsman_lora_server.store.layout import content_hash

__all__ = ["ArtifactStore", "content_hash"]
