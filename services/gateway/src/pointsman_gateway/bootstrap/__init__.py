"""Builds the gateway from its concrete classes, and one pipeline for each loaded configuration."""

from pointsman_gateway.bootstrap.app import House, building
from pointsman_gateway.bootstrap.stages import NamedModels, check, to_engine, to_path

__all__ = ["House", "NamedModels", "building", "check", "to_engine", "to_path"]
