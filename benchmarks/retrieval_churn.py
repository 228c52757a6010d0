"""Measures searches while documents are written, and checks that no acknowledged write is lost after kill -9.

    python benchmarks/retrieval_churn.py                # both parts
    python benchmarks/retrieval_churn.py crash --rounds 50

Both parts use the real service in its own process. Churn: a client process continuously searches a collection of
one-chunk documents by text. Its latency is measured six times: without writes; while another client replaces 1,000
documents per second, by calls of Upsert with 20 documents each, by an ingest stream with 20 documents per message, and
by one with a single document per message ("singly"); without writes again; and while a stream replaces documents as
fast as possible. Crash: the process is killed during upserts, ingests and deletes. After each restart all rows are
verified and compared with what was acknowledged. The last line of output is one JSON object.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_embedding import MiniLM
from pointsman_retriever.domain import CollectionId
from pointsman_retriever.store.maintenance import check_all
from pointsman_retriever.store.store import Store
from pointsman_servicekit.grpc_client import open_channel

ROOT = Path(__file__).parents[1]
MODEL = ROOT / ".pointsman/models/minilm"
WORDS = sorted(set(re.findall(r"[a-z]{3,}", (ROOT / "README.md").read_text().lower())))
COLLECTION = "bench"
GONE = 0
SEARCHES = "searches"  # first argument of the searching client's process; the second is the retriever's address
WARM_UP = 100  # searches
DOCUMENTS_PER_CALL = 20  # documents per Upsert call
RATE = 1_020.0  # documents sent per second; about 1,000 are acknowledged, because the last acknowledgements take time


@dataclass
class Service:
    process: asyncio.subprocess.Process
    address: str
    stub: retriever_pb2_grpc.RetrieverStub


@asynccontextmanager
async def service(data: Path) -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pointsman_retriever",
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "POINTSMAN_RETRIEVER_LISTEN": "127.0.0.1:0",
            "POINTSMAN_RETRIEVER_METRICS_LISTEN": "127.0.0.1:0",
            "POINTSMAN_RETRIEVER_DATA": str(data),
            "POINTSMAN_RETRIEVER_EMBEDDING_MODEL": str(MODEL),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    address = None
    while address is None:
        line = await process.stderr.readline()
        if not line:
            raise RuntimeError("the retriever exited before it was ready")
        if found := re.search(rb"serving at (\S+),", line):
            address = found[1].decode()
    drain = asyncio.create_task(process.stderr.read())
    try:
        async with open_channel(address) as channel:
            yield Service(process, address, retriever_pb2_grpc.RetrieverStub(channel))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await drain


def text_of(random_: random.Random, words: int = 40) -> str:
    return " ".join(random_.choices(WORDS, k=words)).capitalize() + "."


# -- churn


@dataclass(frozen=True)
class Latencies:
    milliseconds: Sequence[float]

    def at(self, share: float) -> float:
        return float(np.quantile(self.milliseconds, share))


def with_vectors(count: int, fingerprint: str, seed: int) -> list[pb.Document]:
    vectors = np.random.default_rng(seed).normal(size=(count, 384)).astype(np.float32)
    texts = random.Random(seed)
    return [
        pb.Document(
            id=f"d{number}",
            text=text_of(texts),
            metadata={"collection": str(number % 10)},
            vector=pb.Vector(fingerprint=fingerprint, values=vector.tolist()),
        )
        for number, vector in enumerate(vectors)
    ]


@asynccontextmanager
async def searching(address: str) -> AsyncIterator[list[float]]:
    """Runs a client that searches until the end of the block. Then the list has the milliseconds of each search."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, SEARCHES, address, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()  # it has started searching
    found: list[float] = []
    yield found
    output, _ = await process.communicate(b"")  # closing its input stops it
    found += json.loads(output)


async def search_until_stopped(address: str) -> None:
    """Main function of the searching client: prints "begun", searches until its input is closed, and prints the
    times.
    """
    random_, found, output = random.Random(5), [], asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), output.set)
    async with open_channel(address) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        for turn in itertools.count(-WARM_UP):
            if output.is_set():
                break
            if turn == 0:
                print("started", flush=True)
            started = time.perf_counter()
            await stub.Search(pb.SearchRequest(collection=COLLECTION, query=text_of(random_, 8), top_k=10))
            if turn >= 0:
                found.append((time.perf_counter() - started) * 1000.0)
    print(json.dumps(found))


async def idle_for(address: str, seconds: float) -> list[float]:
    async with searching(address) as found:
        await asyncio.sleep(seconds)
    return found


async def stream(stub, documents: Sequence[pb.Document], rate: float, together: int = 1) -> tuple[int, float]:
    """Ingests documents; returns how many were acknowledged, and the seconds that this took. `rate` is documents per
    second (0: no limit), and `together` the number of documents per message.
    """
    started = time.perf_counter()

    async def steps() -> AsyncIterator[pb.IngestRequest]:
        yield pb.IngestRequest(begin=pb.IngestBegin(collection=COLLECTION, together=together > 1))
        for number in range(0, len(documents), together):
            if rate and (ahead := started + number / rate - time.perf_counter()) > 0.0:
                await asyncio.sleep(ahead)
            if together > 1:
                yield pb.IngestRequest(documents=pb.Documents(documents=documents[number : number + together]))
            else:
                yield pb.IngestRequest(document=documents[number])
        yield pb.IngestRequest(end=pb.IngestEnd())

    written = 0
    async for event in stub.Ingest(steps()):
        outcomes = [event.outcome] if event.HasField("outcome") else event.outcomes.outcomes
        for outcome in outcomes:
            assert outcome.state == pb.DocumentOutcome.WRITTEN, outcome
            written += 1
    return written, time.perf_counter() - started


async def upserts(stub, documents: Sequence[pb.Document], rate: float) -> tuple[int, float]:
    """Upserts documents at a fixed rate, without waiting for the previous call; returns the same as `stream`."""
    started, calls = time.perf_counter(), list[asyncio.Task[pb.UpsertResponse]]()
    for number in range(0, len(documents), DOCUMENTS_PER_CALL):
        await asyncio.sleep(started + number / rate - time.perf_counter())
        call = pb.UpsertRequest(collection=COLLECTION, documents=documents[number : number + DOCUMENTS_PER_CALL])
        calls.append(asyncio.ensure_future(stub.Upsert(call)))
    answers = await asyncio.gather(*calls)
    assert not sum(answer.unchanged for answer in answers)
    return sum(answer.documents for answer in answers), time.perf_counter() - started


async def churn(rows: int, seconds: float, rate: float) -> dict[str, float]:
    fingerprint = MiniLM.load(MODEL).fingerprint
    with tempfile.TemporaryDirectory() as folder:
        async with service(Path(folder)) as running:
            stub = running.stub
            await stub.CreateCollection(pb.CreateCollectionRequest(name=COLLECTION))
            filled, fill_seconds = await stream(stub, with_vectors(rows, fingerprint, 1), 0.0)
            print(f"filled with {filled:,} documents at {filled / fill_seconds:,.0f} per second", flush=True)
            others = [with_vectors(min(rows, int(rate * seconds)), fingerprint, seed) for seed in (2, 3, 4)]
            yet_others = with_vectors(min(rows, int(2 * rate * seconds)), fingerprint, 5)
            before = await idle_for(running.address, seconds / 2)
            called = await search_during(running, upserts(stub, others[0], rate))
            streamed = await search_during(running, stream(stub, others[1], rate, DOCUMENTS_PER_CALL))
            singly = await search_during(running, stream(stub, others[2], rate))
            idle = Latencies(before + await idle_for(running.address, seconds / 2))
            fast = await search_during(running, stream(stub, yet_others, 0.0))
            verified = await stub.Verify(pb.VerifyRequest(collection=COLLECTION))
            assert not verified.problems, verified.problems
    result = {
        "rows": rows,
        "idle_p50_ms": idle.at(0.5),
        "idle_p99_ms": idle.at(0.99),
        **_compare(idle, "churn", called),
        **_compare(idle, "streamed", streamed),
        **_compare(idle, "singly", singly),
        "flat_out_upserts_per_s": fast[1],
        "flat_out_p99_ms": fast[0].at(0.99),
    }
    for name, value in result.items():
        print(f"{name}: {value:,.2f}")
    return result


def _compare(idle: Latencies, name: str, found: tuple[Latencies, float]) -> dict[str, float]:
    latencies, upserts_per_s = found
    return {
        f"{name}_upserts_per_s": upserts_per_s,
        f"{name}_p50_ms": latencies.at(0.5),
        f"{name}_p99_ms": latencies.at(0.99),
        f"{name}_p99_ratio": latencies.at(0.99) / idle.at(0.99),
    }


async def search_during(running: Service, writing: Coroutine[Any, Any, tuple[int, float]]) -> tuple[Latencies, float]:
    """Searches while documents are replaced; returns the latencies and the documents replaced per second."""
    async with searching(running.address) as found:
        written, seconds = await writing
    return Latencies(found), written / seconds


# -- crash


@dataclass
class Ledger:
    """The states that each document may have after a crash: the last acknowledged state, and all that were sent after
    it.
    """

    sent: dict[str, int] = field(default_factory=dict)  # the highest edition sent
    may_be: dict[str, set[int]] = field(default_factory=dict)  # editions; GONE means deleted
    lost: int = 0
    ghosts: int = 0

    def next(self, name: str, random_: random.Random) -> pb.Document:
        self.sent[name] = self.sent.get(name, 0) + 1
        self.sending(name, self.sent[name])
        return pb.Document(id=name, text=f"Edition {self.sent[name]} of {name}. {text_of(random_, 20)}")

    def sending(self, name: str, state: int) -> None:
        self.may_be.setdefault(name, {GONE}).add(state)

    def acknowledge(self, name: str, state: int) -> None:
        self.may_be[name] = {state}


async def write_until_killed(stub, ledger: Ledger, writer: int, random_: random.Random) -> None:
    """Writes until the service is killed. Each writer uses document names of its own, so that the order of its writes
    is known.
    """
    try:
        for turn in range(10_000):
            names = [f"w{writer}-{number}" for number in random_.sample(range(60), 4)]
            if turn % 5 == 4:
                for name in names:
                    ledger.sending(name, GONE)
                await stub.Delete(pb.DeleteRequest(collection=COLLECTION, ids=names))
                for name in names:
                    ledger.acknowledge(name, GONE)
            elif writer % 2:
                documents = [ledger.next(name, random_) for name in names]
                await stub.Upsert(pb.UpsertRequest(collection=COLLECTION, documents=documents))
                for name in names:
                    ledger.acknowledge(name, ledger.sent[name])
            else:
                await _ingest(stub, ledger, names, random_)
    except grpc.aio.AioRpcError:
        return  # the process was killed


async def _ingest(stub, ledger: Ledger, names: Sequence[str], random_: random.Random) -> None:
    requests = [
        pb.IngestRequest(begin=pb.IngestBegin(collection=COLLECTION, source="crash")),
        *(pb.IngestRequest(document=ledger.next(name, random_)) for name in names),
        pb.IngestRequest(end=pb.IngestEnd()),
    ]
    async for event in stub.Ingest(iter(requests)):
        if event.HasField("outcome"):
            ledger.acknowledge(event.outcome.id, ledger.sent[event.outcome.id])


def check(data: Path, ledger: Ledger) -> list[str]:
    """Checks the collection on disk. Returns the lost, resurrected and inconsistent documents, and records the present
    states in the ledger.
    """
    store = Store(CollectionId("default", COLLECTION), data / "default" / COLLECTION, 1)
    try:
        problems = list(check_all(store).problems)
        with store.connections.reader() as reader:
            rows = reader.execute("SELECT id, text FROM documents").fetchall()
    finally:
        store.close()
    held = {name: int(re.match(r"Edition (\d+) of", text)[1]) for name, text in rows}
    for name in {*ledger.may_be, *held}:
        state, right = held.get(name, GONE), ledger.may_be.get(name, {GONE})
        if state not in right:
            # A ghost exists although its deletion was acknowledged. Any other wrong state means that an acknowledged
            # write was lost.
            ledger.ghosts += right == {GONE}
            ledger.lost += right != {GONE}
            problems.append(f"{name} is {state}, allowed are {sorted(right)} ({GONE}: deleted)")
        ledger.may_be[name] = {state}  # the state that later rounds start from
    return problems


async def crash(rounds: int) -> dict[str, float]:
    random_ = random.Random(11)
    problems: list[str] = []
    ledger = Ledger()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for _ in range(rounds):
            async with service(data) as running:
                await running.stub.CreateCollection(pb.CreateCollectionRequest(name=COLLECTION, if_missing=True))
                verified = await running.stub.Verify(pb.VerifyRequest(collection=COLLECTION))
                problems += verified.problems
                writers = [
                    asyncio.create_task(write_until_killed(running.stub, ledger, writer, random_))
                    for writer in range(6)
                ]
                await asyncio.sleep(random_.uniform(0.02, 1.2))
                running.process.kill()
                await running.process.wait()
                await asyncio.gather(*writers)
            problems += check(data, ledger)
            if problems:
                break
        async with service(data) as running:
            verified = await running.stub.Verify(pb.VerifyRequest(collection=COLLECTION))
            problems += verified.problems
    for problem in problems:
        print(problem)
    sent = sum(ledger.sent.values())
    print(f"kill -9: {rounds} times during {sent:,} documents sent; {len(problems)} problems")
    counts = {"lost": ledger.lost, "ghosts": ledger.ghosts, "problems": len(problems)}
    return {"kills": rounds, "documents": sent, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["churn", "crash"], help="churn, crash")
    parser.add_argument("--rows", type=int, default=20_000, help="documents in the collection")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement of searches")
    parser.add_argument("--rate", type=float, default=RATE, help="upserts per second")
    parser.add_argument("--rounds", type=int, default=50, help="number of kills")
    options = parser.parse_args()
    if options.parts[:1] == [SEARCHES]:
        asyncio.run(search_until_stopped(options.parts[1]))
        return
    print(json.dumps(measure(options.parts, options.rows, options.seconds, options.rate, options.rounds)))


def measure(
    parts: Sequence[str] = ("churn", "crash"),
    rows: int = 20_000,
    seconds: float = 15.0,
    rate: float = RATE,
    rounds: int = 50,
) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    if "churn" in parts:
        result["churn"] = asyncio.run(churn(rows, seconds, rate))
    if "crash" in parts:
        result["crash"] = asyncio.run(crash(rounds))
    return result


if __name__ == "__main__":
    main()
