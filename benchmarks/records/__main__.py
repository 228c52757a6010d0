"""Measures `pointsman advise --from` over millions of receipts, and what exporting costs a request.

    make bench-records        # 10 million receipts: 0.6 GB of disk, some minutes; ARGS="--rows 1000000 --only advise"

`advise` is the command in its own process, with all that it starts: seconds, and the most memory of one process. The
cost of exporting is the exporter's CPU time for a decision, without its start, plus that of appending the record in the
gateway. It is compared with the gateway's CPU time for a request; processes and requests are real. The last line of
output is one JSON object; the exit status is 1 if a target is missed.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.records.export_cost import export_cost
from benchmarks.records.receipts import write_receipts

ROWS, DAYS = 10_000_000, 14
MAX_SECONDS, MAX_BYTES = 60.0, 2 * 10**9
MAX_SHARE = 0.05
"""Targets: of `advise`, and of exporting as a share of a request's CPU time."""
REQUESTS = 4000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--only", choices=("advise", "cost"), action="append")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not options.only or "cost" in options.only:
            (folder / "cost").mkdir()
            result["cost"] = found = asyncio.run(export_cost(folder / "cost", options.requests))
            if found["share"] > MAX_SHARE:
                missed.append("cost")
        if not options.only or "advise" in options.only:
            result["advise"] = found = _advise(folder / "records", options.days, options.rows)
            if found["seconds"] > MAX_SECONDS or found["max_bytes"] > MAX_BYTES:
                missed.append("advise")
    print(json.dumps({**result, "missed": missed}))
    return 1 if missed else 0


def _advise(folder: Path, days: int, rows: int) -> dict[str, Any]:
    written = write_receipts(folder, days, rows)
    print(f"{rows:,} receipts in {written / 1e9:.2f} GB", flush=True)
    program = [sys.executable, "-m", "pointsman_cli", "advise", "--from", str(folder), "--json"]
    began = time.perf_counter()
    done = subprocess.run([*program, "--since", f"{days + 1}d"], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    ratings = sum(path["ratings"] for task in json.loads(done.stdout) for path in task["paths"])
    max_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"rows": rows, "days": days, "disk_bytes": written, "ratings": ratings, "seconds": round(seconds, 1),
            "max_bytes": max_bytes}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
