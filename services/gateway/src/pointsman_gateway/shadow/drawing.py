"""Which decisions are shadowed, and by which path."""

from pointsman_gateway.config.schema import ShadowConfig
from pointsman_gateway.domain import Decision
from pointsman_gateway.routing.policy import point


def drawn(terms: ShadowConfig | None, decision: Decision) -> str:
    """The path that answers as well, drawn by the decision's id; empty where none does."""
    if terms is None:
        return ""
    others = [path for path in terms.paths if path != decision.path.name]
    where = point(f"shadow {decision.id}")
    if not others or where >= terms.share:
        return ""
    return others[int(where / terms.share * len(others))]
