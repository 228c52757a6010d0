"""Writes millions of receipts as the exporter would have written them, with some duplicates and ratings."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pointsman_gateway.export.tables import SCHEMAS, path_of
from pointsman_gateway.request_log.export_log import DECISIONS, FEEDBACK

TASKS = ("triage", "policy_question", "chat")
PATHS = (("small_prompt", "prompt", ""), ("triage_adapter", "lora", "triage@3f9a1c0b77de"), ("large_rag", "rag", ""))
"""Names, kinds and versions."""
TENANTS = 4
ROWS_PER_FILE = 50_000
DUPLICATES = 0.001
RATED = 0.02
MS_PER_DAY = 86_400_000
REST = (
    '","revision":"4f1c","confidence":0.91,"margin":0.63,"in_distribution_score":0.4,"stage":"static","notes":[],'
    '"probabilities":[["triage",0.91],["policy_question",0.05],["chat",0.04]],"reason":"policy:best_value",'
    '"considered":[{"path":"small_prompt","outcome":"chosen","reason":"cheapest above the floor"},'
    '{"path":"large_rag","outcome":"available","reason":"dearer"}],"requested":"auto","metadata":{"app":"helpdesk"},'
    '"response_format":"","inputs":"6f1d3c0b8a7e4d5f9c2b1a0e3d4c5b6a","user_digest":"","random_key":"","text":'
    '"not stored","messages":null,"user":null,"outcome":"ok","fault":"none","guardrails":[],"engine":"local"}'
)


def write_receipts(folder: Path, days: int, rows: int) -> int:
    """Writes `rows` decisions of the last `days`, duplicates of some, and ratings; returns the bytes on disk."""
    random = np.random.default_rng(7)
    written, today = 0, date.today()
    per_file = max(1, min(ROWS_PER_FILE, rows // days // TENANTS))
    files = rows // per_file
    for number in range(files):
        day = today - timedelta(days=1 + number % days)
        count = per_file + (rows - files * per_file if number == files - 1 else 0)
        decisions = _decisions((day - date(1970, 1, 1)).days * MS_PER_DAY, count, random)
        tenant, name = f"team-{number % TENANTS}", f"bench-{number:08d}-{number:08d}"
        again = decisions.slice(0, round(count * DUPLICATES))  # as a gateway that was killed leaves them
        for suffix, table in (("", decisions), ("again", again)):
            written += _write(folder / path_of((DECISIONS, day.isoformat(), tenant), name + suffix), table)
        ratings = _ratings(decisions.slice(0, round(count * RATED)), random)
        written += _write(folder / path_of((FEEDBACK, day.isoformat(), tenant), name), ratings)
    return written


def _write(file: Path, table: pa.Table) -> int:
    if not table.num_rows:
        return 0
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, compression="zstd", compression_level=1, use_dictionary=list(_repeated(table)))
    return file.stat().st_size


def _repeated(table: pa.Table) -> Iterator[str]:
    return (field.name for field in table.schema if field.type == pa.string() and field.name not in ("id", "entry"))


def _decisions(day_ms: int, count: int, random: np.random.Generator) -> pa.Table:
    ids = pc.binary_join_element_wise("dec", _random_hex(count, random), "_")
    path = random.integers(len(PATHS), size=count)
    task = pa.array(TASKS).take(random.integers(len(TASKS), size=count))
    names, kinds, versions = (pa.array(column).take(path) for column in zip(*PATHS, strict=True))
    times = pa.array(day_ms + np.sort(random.integers(MS_PER_DAY, size=count)))
    cost = pa.array(np.round(random.gamma(2.0, 1e-4 * (path + 1)), 9))
    seconds = pa.array(np.round(random.lognormal(-0.5, 0.6, count), 6))
    join = pc.binary_join_element_wise
    key = join('["', task, '","', names, '","9c1f22","', versions, '"]', "")
    entry = join(
        '{"v":1,"id":"', ids, '","unix_ms":', times.cast(pa.string()), ',"cost_usd":', cost.cast(pa.string()),
        ',"seconds":{"total":', seconds.cast(pa.string()), ',"first_token":0.2},"task":"', task, '","path":"', names,
        REST, "",
    )  # fmt: skip
    given = {
        "id": ids, "time": times.cast(pa.timestamp("ms", tz="UTC")), "task": task, "path": names, "kind": kinds,
        "cost_usd": cost, "seconds": seconds, "evidence_key": key, "entry": entry, "request_id": ids, "model": versions,
        "prompt_tokens": pa.array(random.integers(20, 2000, count)),
        "completion_tokens": pa.array(random.integers(1, 400, count)),
    }  # fmt: skip
    constant = {"outcome": "ok", "fault": "none", "stage": "static", "fingerprint": "9c1f22", "engine": "local",
                "key": "k1", "reason": "policy:best_value", "requested": "auto", "text": "not stored"}  # fmt: skip
    columns = []
    for field in SCHEMAS[DECISIONS]:
        default = constant.get(field.name, "") if field.type == pa.string() else None
        columns.append(given.get(field.name, pa.array([default] * count, field.type)).cast(field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMAS[DECISIONS])


def _random_hex(count: int, random: np.random.Generator) -> pa.Array:
    """Returns texts of 32 random hex digits."""
    digits = pa.py_buffer(random.bytes(16 * count).hex().encode())
    offsets = pa.py_buffer((np.arange(count + 1) * 32).astype(np.int32))
    return pa.StringArray.from_buffers(count, offsets, digits)


def _ratings(decisions: pa.Table, random: np.random.Generator) -> pa.Table:
    ids, count = decisions["id"].combine_chunks(), decisions.num_rows
    given = {
        "id": pc.binary_join_element_wise(ids, "f1", ":"),
        "time": decisions["time"].combine_chunks(),
        "decision": ids,
        "rating": pa.array(random.integers(0, 2, count).astype(float)),
    }
    columns = [given.get(field.name, pa.array([""] * count, pa.string())) for field in SCHEMAS[FEEDBACK]]
    return pa.Table.from_arrays(columns, schema=SCHEMAS[FEEDBACK])
