"""Unpacks the state of an earlier release, which `make_state` wrote."""

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATES = Path(__file__).parent / "states"
LORA_SETTINGS = {"SMOKE_TEST": "off"}
STATE_FOLDERS = ("valkey", "retriever", "store", "wal")
RELEASES = sorted(path.name.removesuffix(".tar.gz") for path in STATES.glob("*.tar.gz"))


@dataclass(frozen=True)
class ReleaseState:
    folder: Path
    expected: dict[str, Any]


def unpack(release: str, folder: Path) -> ReleaseState:
    with tarfile.open(STATES / f"{release}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return ReleaseState(folder, json.loads((folder / "expected.json").read_text()))
