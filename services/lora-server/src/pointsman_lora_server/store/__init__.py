"""The artifact store: STORE/NAME/HASH/ holds an adapter version, named by the first 12 digits of its content's hash."""

from pointsman_lora_server.store.artifact_store import ArtifactStore
from pointsman_lora_server.store.layout import content_hash

__all__ = ["ArtifactStore", "content_hash"]
