"""The artifact store: the folder STORE/NAME/HASH/ holds an adapter version; HASH is the first 12 digits of its
content's SHA-256.
"""

from pointsman_lora_server.store.artifact_store import ArtifactStore
from pointsman_lora_server.store.layout import content_hash

__all__ = ["ArtifactStore", "content_hash"]
