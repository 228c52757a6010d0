"""The only place that knows concrete classes: builds the house, and a line for each generation of the configuration."""

from pointsman_gateway.wiring.house import House, building
from pointsman_gateway.wiring.line import NamedModels, check, to_engine, to_path

__all__ = ["House", "NamedModels", "building", "check", "to_engine", "to_path"]
