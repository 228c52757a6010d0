"""Measures how many foreign texts are recognised, how many English texts are rejected, and the time per text.

    python benchmarks/languages.py        # needs no service and no model

The held-out texts are the help desk's. `--data` is a folder with CLINC150 (`routing/clinc150/data_full.json`), of which
23,700 English requests are used. The last line of output is one JSON object.
"""

import argparse
import json
import time
from pathlib import Path

from pointsman_gateway.classification.reader import LanguageDetector

ROOT = Path(__file__).parents[1]
HELPDESK = ROOT / "examples/helpdesk"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    data = arguments.parse_args().data / "routing/clinc150/data_full.json"
    languages = LanguageDetector(["en"])
    rows = read_rows(HELPDESK / "heldout/languages.jsonl")
    others = [row for row in rows if row["language"] != "en"]
    english = {
        "held out": [row["text"] for row in rows if row["language"] == "en"],
        "help desk": [row["text"] for file in sorted(HELPDESK.glob("config/tasks/*.jsonl")) for row in read_rows(file)],
    }
    if data.is_file():
        english["CLINC150"] = [text for part in json.loads(data.read_text("utf-8")).values() for text, _ in part]
    missed = [row["text"] for row in others if not languages.foreign(row["text"])]
    result = {
        "other": len(others),
        "recognised": len(others) - len(missed),
        "named_rightly": sum(languages.foreign(row["text"]) == row["language"] for row in others),
    }
    print("foreign texts that were not recognised:", *missed, sep="\n  ")
    for name, texts in english.items():
        started = time.perf_counter()
        sent_away = [text for text in texts if languages.foreign(text)]
        microseconds = 1e6 * (time.perf_counter() - started) / len(texts)
        result[name] = {"texts": len(texts), "sent_away": len(sent_away), "mean_us": round(microseconds, 1)}
        print(f"{name}, English texts that were rejected:", *sent_away, sep="\n  ")
    print(json.dumps(result))


def read_rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(row) for row in file.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    main()
