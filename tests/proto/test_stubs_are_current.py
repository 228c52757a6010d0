"""The committed stubs equal those that are generated from the committed protobuf files."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"


@pytest.mark.parametrize(("package", "count"), [("v1", 4), ("envoy", 4)])
def test_the_committed_stubs_equal_the_generated_ones(tmp_path: Path, package: str, count: int) -> None:
    folder = PROTO / "pointsman" / package
    contracts = sorted(folder.glob("*.proto"))
    assert len(contracts) == count
    outs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *outs, *contracts], check=True)
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "pointsman" / package).iterdir()}
    committed = {path.name: path.read_bytes() for path in folder.glob("*_pb2*")}
    stale = sorted(name for name in fresh | committed if fresh.get(name) != committed.get(name))
    assert not stale, f"not what the contracts generate: {', '.join(stale)}; run `make stubs`"
