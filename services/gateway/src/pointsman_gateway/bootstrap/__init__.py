"""Builds the gateway's objects at the start and at each reload. Only this package chooses concrete classes."""

from pointsman_gateway.bootstrap.app import GatewayComponents, build_gateway
from pointsman_gateway.bootstrap.catalog import to_catalog
from pointsman_gateway.bootstrap.config_check import check_config, check_environment
from pointsman_gateway.bootstrap.engine_discovery import to_engine
from pointsman_gateway.bootstrap.named_models import NamedModels
from pointsman_gateway.bootstrap.paths import to_path
from pointsman_gateway.bootstrap.workers import Siblings, supervise

__all__ = [
    "GatewayComponents",
    "NamedModels",
    "Siblings",
    "build_gateway",
    "check_config",
    "check_environment",
    "supervise",
    "to_catalog",
    "to_engine",
    "to_path",
]
