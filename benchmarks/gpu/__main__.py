"""Measures what a platform team asks first, in at most 30 minutes: `make bench-gpu`.

    make bench-gpu MODEL=FOLDER ARGS="[--quick] [--minutes 30] [--out NAME]"
    make bench-gpu ARGS=--dry-gpu

Tokens/s and first token with 0, 1, 8, 64 and 256 adapters through the gateway and on bare vLLM with the same flags, the
time of a swap, wrong tokens, the same with FP8 and tensor parallel, and FAISS on the GPU and on the CPU. Writes
NAME.json and NAME.md. What cannot be measured, or does not fit into the time, is named with the reason; the exit status
is 1 if something has failed.

`--dry-gpu` runs each of these steps once on the CPU engine, without FP8 and tensor parallel and with few requests, to
test the measurement itself.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.gpu.machine import find_machine
from benchmarks.gpu.page import to_markdown
from benchmarks.gpu.parts import DRY, FULL, QUICK, measure_all
from benchmarks.gpu.time_limit import TimeLimit

MINUTES = 30.0
OUT = Path("build/bench-gpu")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests and vectors")
    parser.add_argument("--dry-gpu", action="store_true", help="test the measurement on the CPU engine")
    parser.add_argument("--adapters", type=int, nargs="+", metavar="N", help="numbers of adapters")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="when it ends at the latest")
    parser.add_argument("--out", type=Path, default=OUT, metavar="NAME", help="of NAME.json and NAME.md")
    options = parser.parse_args()
    sizes = DRY if options.dry_gpu else QUICK if options.quick else FULL
    if options.adapters:
        sizes = replace(sizes, adapters=tuple(options.adapters))
    machine, limit = find_machine(), TimeLimit(60 * options.minutes)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        parts = asyncio.run(measure_all(Path(scratch), sizes, machine, limit, dry=options.dry_gpu))
    found = {
        "machine": asdict(machine),
        "device": machine.device,
        "command": f"make bench-gpu ARGS='{' '.join(sys.argv[1:])}'",
        "dry": options.dry_gpu,
        "minutes": (limit.seconds - limit.left) / 60,
        **parts,
        "missing": [asdict(one) for one in limit.missing],
    }
    page = to_markdown(found)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page)
    print(page)
    print(f"{options.out.with_suffix('.json')} and {options.out.with_suffix('.md')} are written")
    return 1 if limit.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
