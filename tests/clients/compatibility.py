"""The clients in this folder, and the table of the features that work with each; it is generated from their last
results."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
PAGE = FOLDER.parents[1] / "docs" / "clients.md"
VLLM = "vLLM"
SCRIPTED = "scripted"
WITH_SCRIPTED_ENGINE = {"agent-framework", "cohere", "google-adk", "inspect-ai", "jina", "opencode", "strands"}
"""Clients that run with a scripted engine: agents, because they need a model that chooses tools by itself or reads
thousands of tokens of instructions; and clients of rerankers, because no package has a reranker's weights."""
FEATURES = ("plain", "streaming", "tools", "streamed tools", "tool results", "structured output")


@dataclass(frozen=True)
class Client:
    packages_file: Path

    @property
    def name(self) -> str:
        return self.packages_file.stem.partition("-")[2]

    @property
    def engine(self) -> str:
        return SCRIPTED if self.name in WITH_SCRIPTED_ENGINE else VLLM

    @property
    def is_node(self) -> bool:
        return self.packages_file.name.startswith("packages-")

    @property
    def script(self) -> Path:
        """The program that sends the requests. If the client is a command, this is a Python program that runs the
        command.
        """
        stem = FOLDER / f"{self.name.replace('-', '_')}_client"
        node = stem.with_suffix(".mjs")
        return node if node.exists() else stem.with_suffix(".py")

    @property
    def versions(self) -> list[str]:
        """The pinned packages, such as "openai 3.57.0", or "npm openai 6.49.0"."""
        lines = self.packages_file.read_text().split("\n")
        pinned = [re.fullmatch(r"(@?[^@=\[]+)(?:\[.*\])?(?:==|@)(\S+)", line) for line in lines]
        return [f"{'npm ' * self.is_node}{match[1]} {match[2]}" for match in pinned if match]


CLIENTS = tuple(Client(file) for file in sorted([*FOLDER.glob("requirements-*.txt"), *FOLDER.glob("packages-*.txt")]))


def store_result(client: Client, results: Iterable[Mapping[str, Any]]) -> None:
    """Replaces the client's results in results.json, and the table in docs/clients.md."""
    checks: dict[str, dict[str, bool]] = {}
    for result in results:
        checks.setdefault(result["api"], {})[result["check"]] = not result["error"]
    stored = read_results()
    stored[client.name] = {"versions": client.versions, "engine": client.engine, "checks": checks}
    RESULTS.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    PAGE.write_text(with_table(PAGE.read_text(), stored))


def read_results() -> dict[str, Any]:
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def with_table(page: str, results: Mapping[str, Any]) -> str:
    """Returns the page with its table replaced by one of these results."""
    before, _, rest = page.partition("<!-- table -->\n")
    _, _, after = rest.partition("<!-- end of table -->\n")
    return f"{before}<!-- table -->\n{render_table(results)}<!-- end of table -->\n{after}"


def render_table(results: Mapping[str, Any]) -> str:
    """Returns the table in Markdown, with a row for each client and a line for APIs that passed the same checks."""
    rows: list[Sequence[str]] = [("client", "passed"), ("---",) * 2]
    for name in sorted(results):
        apis_by_checks: dict[str, list[str]] = {}
        for api, checks in results[name]["checks"].items():
            apis_by_checks.setdefault(render_checks(checks), []).append(f"*{api}*")
        passed = "<br>".join(f"{'; '.join(apis)}: {checks}" for checks, apis in apis_by_checks.items())
        mark = " (scripted)" if results[name]["engine"] == SCRIPTED else ""
        versions = ", ".join(results[name]["versions"]).replace(", npm ", ", ")
        rows.append((versions + mark, passed))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def render_checks(checks: Mapping[str, bool]) -> str:
    """Returns the checks that passed and, in bold, those that failed: "all", or their names."""
    if all(checks.get(feature) for feature in FEATURES):
        return "all"
    return ", ".join(name if checks[name] else f"**not {name}**" for name in FEATURES if name in checks)
