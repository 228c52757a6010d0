"""Imports the fixtures of the gateway's tests."""

from tests.gateway.conftest import (
    config_folder,
    engine,
    lora_server,
    neighbours,
    retriever,
    second_engine,
)

__all__ = ["config_folder", "engine", "lora_server", "neighbours", "retriever", "second_engine"]
