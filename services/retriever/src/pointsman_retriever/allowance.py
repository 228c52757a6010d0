"""What a tenant may have, where nothing else is said."""

from dataclasses import dataclass

from pointsman_servicekit.errors import ResourceExhausted

from pointsman_retriever.domain import UNLIMITED, Quota


@dataclass(frozen=True, slots=True)
class TenantLimits:
    collections: int = 0  # of a tenant; 0 is no limit
    quota: Quota = UNLIMITED  # of a new collection

    def check_one_more(self, tenant: str, collections: int) -> None:
        """Raises ResourceExhausted."""
        if self.collections and collections >= self.collections:
            raise ResourceExhausted(
                f"tenant {tenant!r} has {collections:,} collections, as many as it may; delete one",
                code="quota_exceeded",
                param="collections",
            )
