"""An external store: a file with one passage a line as a JSON object, searched by words."""

import json
from collections.abc import Sequence
from pathlib import Path

from pointsman_retriever.domain import Vectors
from pointsman_retriever.external.stores import ExternalOptions, Hit, Layout, require_fields


class JsonLinesFile:
    def __init__(self, options: ExternalOptions) -> None:
        self._file, self._fields = Path(options.url), options.fields

    def read_layout(self) -> Layout:
        rows = self._rows()
        if rows:
            require_fields(self._fields.read, list(rows[0]), str(self._file))
        return Layout(0, has_words=True, documents=len(rows))

    def by_meaning(self, vector: Vectors, count: int) -> Sequence[Hit]:
        return []

    def by_words(self, text: str, count: int) -> Sequence[Hit]:
        asked = set(text.lower().split())
        hits = [
            Hit(str(number), row, len(asked & set(str(row[self._fields.text]).lower().split())))
            for number, row in enumerate(self._rows(), 1)
        ]
        return sorted((hit for hit in hits if hit.score), key=lambda hit: -hit.score)[:count]

    def close(self) -> None:
        pass

    def _rows(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._file.read_text("utf-8").splitlines()]
