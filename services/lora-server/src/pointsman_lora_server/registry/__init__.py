"""What is wanted of all engines of one base model: kept in Redis, changed there as one, told to all who follow."""

from pointsman_lora_server.registry.outcomes import CanaryOutcomes, RequestCounts
from pointsman_lora_server.registry.registry import AdapterRegistry

__all__ = ["AdapterRegistry", "CanaryOutcomes", "RequestCounts"]
