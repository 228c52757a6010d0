"""Sends ingest streams, and makes a minimal PDF."""

from collections.abc import Sequence
from dataclasses import dataclass

from pointsman.v1 import retriever_pb2 as pb

from tests.retriever.client import Client

WRITTEN, UNCHANGED, FAILED = pb.DocumentOutcome.WRITTEN, pb.DocumentOutcome.UNCHANGED, pb.DocumentOutcome.FAILED


@dataclass(frozen=True)
class Ingested:
    outcomes: list[pb.DocumentOutcome]
    summary: pb.IngestSummary

    @property
    def states(self) -> dict[str, int]:
        return {outcome.id: outcome.state for outcome in self.outcomes}


async def ingest(
    client: Client,
    *documents: pb.Document,
    collection: str = "notes",
    source: str = "folder",
    tenant: str = "",
    remove_missing: bool = False,
) -> Ingested:
    """Sends one complete ingest stream, and returns the outcomes."""
    call = client.stub.Ingest(steps(documents, collection, source, tenant, remove_missing))
    events = [event async for event in call]
    assert events[-1].HasField("summary")
    return Ingested([event.outcome for event in events[:-1]], events[-1].summary)


def steps(
    documents: Sequence[pb.Document],
    collection: str = "notes",
    source: str = "folder",
    tenant: str = "",
    remove_missing: bool = False,
) -> list[pb.IngestRequest]:
    begin = pb.IngestBegin(tenant=tenant, collection=collection, source=source)
    return [
        pb.IngestRequest(begin=begin),
        *(pb.IngestRequest(document=document) for document in documents),
        pb.IngestRequest(end=pb.IngestEnd(remove_missing=remove_missing)),
    ]


def pdf(*pages: str, title: str = "", meaning: str = "") -> bytes:
    """Writes a minimal PDF with a page per text in Helvetica; `meaning` maps the font's glyphs to characters."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode {4 + 2 * len(pages)} 0 R >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    objects.append(f"<< /Length {len(meaning)} >>\nstream\n{meaning}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    written, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(written))
        written += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\n"
    xref = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return written + f"{xref}{trailer}startxref\n{len(written)}\n%%EOF\n".encode()
