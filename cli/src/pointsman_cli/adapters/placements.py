"""How many engines hold an adapter, as people write it and as it is asked for."""

from pointsman.v1 import lora_server_pb2 as pb

from pointsman_cli.errors import UsageError


def from_words(name: str, words: str) -> pb.Placement:
    """Raises Misused."""
    if words == "all":
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ALL)
    if words == "on-demand":
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_ON_DEMAND)
    if words.isascii() and words.isdigit() and 0 < int(words) < 2**32:
        return pb.Placement(name=name, kind=pb.PLACEMENT_KIND_COPIES, copies=int(words))
    raise UsageError(f"'{words}' is not a number of replicas; use all, on-demand, or a number of engines from 1")


def in_words(placement: pb.Placement) -> str:
    if placement.kind == pb.PLACEMENT_KIND_COPIES:
        return f"{placement.copies} {'copy' if placement.copies == 1 else 'copies'}"
    return "on demand" if placement.kind == pb.PLACEMENT_KIND_ON_DEMAND else "all engines"
