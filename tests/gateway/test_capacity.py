"""How many requests a gateway can handle at once, given its settings, memory and open files."""

from typing import Any

import pytest
from pointsman_gateway.bootstrap.capacity import MEGABYTE, derive_capacity
from pointsman_gateway.settings import Settings

MANY_FILES = 1_000_000


def requests(memory_megabytes: int | None, open_files: int = MANY_FILES, **settings: Any) -> int:
    memory = None if memory_megabytes is None else memory_megabytes * MEGABYTE
    return derive_capacity(Settings(**settings), memory, open_files).requests


@pytest.mark.parametrize(("megabytes", "expected"), [(1024, 4096), (768, 2048), (576, 512), (128, 64), (64_000, 4096)])
def test_requests_follow_the_memory_that_is_left_beside_the_process(megabytes: int, expected: int) -> None:
    assert requests(megabytes) == expected


def test_workers_share_the_memory() -> None:
    assert requests(2 * 768, workers=2) == requests(768)


def test_a_larger_buffer_of_bodies_leaves_room_for_fewer_requests() -> None:
    assert requests(1024, buffer_megabytes=512) == 2048


def test_unknown_memory_does_not_limit() -> None:
    assert requests(None) == 4096


def test_requests_follow_the_open_files() -> None:
    assert requests(64_000, open_files=4256) == 1000


def test_settings_come_before_what_is_derived() -> None:
    settings = Settings(max_in_flight=7, http_connections=11, grpc_connections=13)
    capacity = derive_capacity(settings, 64_000 * MEGABYTE, MANY_FILES)
    assert (capacity.requests, capacity.http_connections, capacity.grpc_connections) == (7, 11, 13)


def test_connections_have_room_for_all_requests_and_idle_ones() -> None:
    capacity = derive_capacity(Settings(), 1024 * MEGABYTE, MANY_FILES)
    assert (capacity.http_connections, capacity.grpc_connections) == (5120, 5120)


def test_a_small_limit_of_requests_leaves_room_for_clients_that_are_refused() -> None:
    assert derive_capacity(Settings(max_in_flight=16), 1024 * MEGABYTE, MANY_FILES).http_connections == 16 + 1024


def test_few_open_files_leave_room_for_few_connections() -> None:
    capacity = derive_capacity(Settings(), 1024 * MEGABYTE, 1024)
    assert (capacity.requests, capacity.http_connections) == (192, 384)
