"""Makes the ids that collections have in the shared store while they are moved to or from it. The ids show whether a
move was committed.
"""

from pointsman_servicekit.errors import NotFound

from pointsman_retriever.domain import SHARED, CollectionId
from pointsman_retriever.shared.stores import SharedStore


def unfinished_id(collection_id: CollectionId, place: str) -> CollectionId:
    """Returns the id of the copy of a collection that a retriever is making in the shared store. `place` is the id of
    the retriever's data folder.

    Other retrievers do not list a collection with this id, and none of them makes the same id.
    """
    return CollectionId(collection_id.tenant, f"{collection_id.name}.{place}")


def moved_id(collection_id: CollectionId, place: str) -> CollectionId:
    """Returns the id that a collection in the shared store gets when it is moved to the data folder with the id
    `place`.
    """
    return CollectionId(collection_id.tenant, f"{collection_id.name}.{place}.moved")


def is_move_committed(store: SharedStore, collection_id: CollectionId, place: str, to: str) -> bool:
    """Returns whether the last transaction of a move to the store `to` was committed in the shared store.

    If the shared store has no trace of the collection, the copy in the data folder is to be kept. The transaction may
    still be open, because its commit is on the way to the store, so this function waits for its end. Raises Unavailable
    ("collection_busy") if the wait takes too long, and other errors of the shared store.
    """
    if to == SHARED:
        return not _is_left(store, unfinished_id(collection_id, place)) and _exists(store, collection_id)
    is_left = _is_left(store, collection_id)
    return _exists(store, moved_id(collection_id, place)) or not is_left


def _is_left(store: SharedStore, collection_id: CollectionId) -> bool:
    """Returns whether a collection has its name, after all changes of it have ended."""
    try:
        with store.changing(collection_id):
            return True
    except NotFound:
        return False


def _exists(store: SharedStore, collection_id: CollectionId) -> bool:
    try:
        with store.reading(collection_id):
            return True
    except NotFound:
        return False
