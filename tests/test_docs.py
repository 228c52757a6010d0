"""Everything that the pages name exists: pages, files, targets, commands, options, settings, metrics. The defaults that
they state are those of the code."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pointsman_cli.app import build_app
from pointsman_gateway.config.access_file import GrantConfig, LoginConfig, SigningKeysConfig, SingleSignOnConfig
from pointsman_gateway.config.models_file import ResilienceConfig
from pointsman_gateway.config.paths_file import CacheConfig
from pointsman_gateway.config.tasks_file import GuardrailConfig
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_gateway.validation.guardrails import PiiOptions
from pointsman_lora_server.settings import Settings as LoraSettings
from pointsman_retriever.settings import Settings as RetrieverSettings
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "cli", "deploy", "docs", "examples", "libs", "proto", "services", "tests", "tools")
FOUND = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
PAGES = sorted(page for page in FOUND if page.parent.name != "handbook")
GATEWAY = ROOT / "services/gateway/src/pointsman_gateway"
FOREIGN = {
    *("--allowed-media-domains", "--collect-detailed-traces", "--gpu-memory-utilization"),  # vLLM
    *("--max-loaded-loras", "--volumes"),  # SGLang, docker compose
    *("--cascade", "--force-conflicts"),  # kubectl, Helm
}
SETTINGS = {
    f"{settings.model_config['env_prefix']}{name.upper()}": field.get_default(call_default_factory=True)
    for settings in (GatewaySettings, RetrieverSettings, LoraSettings)
    for name, field in settings.model_fields.items()
}
KEYS: dict[str, tuple[type[BaseModel], ...]] = {
    "cache": (CacheConfig,),
    "guardrails": (GuardrailConfig, PiiOptions),
    "single_sign_on": (SingleSignOnConfig, SigningKeysConfig, GrantConfig, LoginConfig),
}
"""By page, the models that have the keys in the page's tables of defaults."""
page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def sources() -> dict[str, str]:
    files = [ROOT / "compose.yaml", *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.*"))]
    return {str(file): file.read_text() for file in files if file.suffix in {".py", ".proto", ".yaml", ".yml"}}


@cache
def names() -> set[str]:
    return {*SETTINGS, *map(series, re.findall(r"(?i)\bpointsman_[a-z0-9_]+", "\n".join(sources().values())))}


def series(metric: str) -> str:
    return re.sub(r"_(total|bucket|sum|count)$", "", metric)


def code_of(page: Path) -> str:
    """Returns a page's code blocks, followed by each piece of inline code on a line of its own."""
    blocks = re.split(r"^```.*$", page.read_text(), flags=re.MULTILINE)
    inline = [" ".join(code.split()) for prose in blocks[::2] for code in re.findall(r"`([^`]+)`", prose)]
    return "\n".join([*blocks[1::2], *inline])


def variables_of(page: Path) -> set[str]:
    """Returns the variables in a text: `POINTSMAN_LORA_{JOBS,STORE}` names two, and a prefix such as `POINTSMAN_LORA_`
    none.
    """
    found = re.findall(r"(POINTSMAN_[A-Z0-9_]+)(?:\{([A-Z0-9_,]+)\})?", page.read_text())
    return {stem + end for stem, ends in found for end in ends.split(",") if not (stem + end).endswith("_")}


def options_of(command: Any) -> set[str]:
    return {"--help"}.union(*([*parameter.opts, *parameter.secondary_opts] for parameter in command.params))


@cache
def commands() -> list[Any]:
    found: list[Any] = [typer.main.get_command(build_app())]
    for command in found:
        found += getattr(command, "commands", {}).values()
    return found


@cache
def all_options() -> set[str]:
    """Returns the options of all our commands, and all options that the sources mention."""
    return FOREIGN.union(*map(options_of, commands()), re.findall(r"--[a-z][a-z0-9-]+", "\n".join(sources().values())))


@page
def test_every_link_has_a_target(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: there is no such file"
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE) if anchor else []
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, f"{link}: no such heading; there are {', '.join(sorted(anchors))}"


@page
def test_every_named_file_target_setting_and_metric_exists(page: Path) -> None:
    code, targets = code_of(page), re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    paths = re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", code)
    missing = {path for path in paths if not (ROOT / path).exists()}
    modules = re.findall(r"(?<![\w/.{-])(?:[a-z_0-9-]+/)*[a-z_0-9]+\.(?:py|proto)\b", code)
    missing |= {module for module in modules if not any(file.endswith(f"/{module}") for file in sources())}
    missing |= {f"make {name}" for name in re.findall(r"^make ([a-z0-9-]+)", code, re.MULTILINE) if name not in targets}
    metrics = re.findall(r"\bpointsman_[a-z0-9_]*[a-z0-9](?![\w*])", code)
    missing |= {*map(series, metrics), *variables_of(page)} - names()
    assert not missing, f"named, but not there: {', '.join(sorted(missing))}"
    assert not re.search(r"^(<{7} |>{7} |={7}$)", page.read_text(), re.MULTILINE), "a merge has left its marks"


@page
def test_every_named_command_and_option_exists(page: Path) -> None:
    for line in re.findall(
        r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?pointsman ((?:[a-z]|--).*)", code_of(page), re.MULTILINE
    ):
        command: Any = typer.main.get_command(build_app())
        for word in line.replace("|", " ").split():
            if not hasattr(command, "commands") or word.startswith("-"):
                break
            assert word in command.commands, f"pointsman {line}: '{word}' is none of {', '.join(command.commands)}"
            command = command.commands[word]
        known = options_of(command)
        unknown = {*re.findall(r"(?<!\S)--[a-z0-9-]+", line)} - known
        assert not unknown, f"pointsman {line}: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"


@page
def test_every_option_that_is_named_alone_exists(page: Path) -> None:
    unknown = {*re.findall(r"^--[a-z][a-z0-9-]+", code_of(page), re.MULTILINE)} - all_options()
    assert not unknown, f"{', '.join(sorted(unknown))}: neither a command of ours nor the source has such an option"


@page
def test_a_setting_has_the_default_that_is_stated(page: Path) -> None:
    """The pages state it as in `QUEUE_TIMEOUT` (10 s)."""
    stated = re.findall(r"`([A-Z][A-Z_]+)` \(`?(\w(?:[\w.,:]*\w)?)`?(?: (?:s|MiB))?[,;)]", page.read_text())
    for setting, value in stated:
        found = {name: default for name, default in SETTINGS.items() if re.fullmatch(rf"(\w+_)?{setting}", name)}
        assert not found or any(is_written(default, value) for default in found.values()), f"{value}, but {found}"


def is_written(default: Any, text: str) -> bool:
    if isinstance(default, int | float):
        return bool(re.fullmatch(r"[\d.,]+", text)) and float(text.replace(",", "")) == default
    return text == (",".join(sorted(default)) if isinstance(default, frozenset) else str(default))


@page
def test_an_option_has_the_default_that_is_stated(page: Path) -> None:
    """The pages state it as in `--concurrency` (8)."""
    for option, value in re.findall(r"`(--[a-z-]+)`(?: \(|, )(\d[\d.]*)\)", page.read_text()):
        found = [each.default for command in commands() for each in command.params if option in each.opts]
        assert float(value) in found, f"{option}: {value}, but {found}"


@pytest.mark.parametrize("name", KEYS)
def test_a_key_has_the_default_that_a_table_states(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text()
    tables = re.findall(r"^\| (?:key|option) \| default \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [[cell.strip() for cell in row.split("|")] for table in tables for row in table.splitlines()]
    stated = {key: cell for _, keys, cell, *_ in rows for key in re.findall(r"`(?:\w+\.)?(\w+)`", keys) if cell}
    fields = {key: field for model in KEYS[name] for key, field in model.model_fields.items()}
    found = {key: fields[key].get_default(call_default_factory=True) for key in stated}
    assert found
    assert {key: default or None for key, default in found.items()} == {
        key: value_in(cell) or None for key, cell in stated.items()
    }


def value_in(cell: str) -> Any:
    """Returns the value that a cell of a table has up to its first semicolon."""
    text = cell.partition(";")[0]
    codes = re.findall(r"`([^`]+)`", text) or [text]
    values = [None if code in ("none", "unset") else yaml.safe_load(code) for code in codes]
    value = values if len(values) > 1 else values[0]
    return tuple(value) if isinstance(value, list) else value


def test_resilience_has_the_defaults_that_are_stated() -> None:
    text = (ROOT / "docs/resilience.md").read_text()
    [block] = re.findall(r"these are the defaults\.\n\n```yaml\n(.*?)```", text, re.DOTALL)
    assert ResilienceConfig.model_validate(yaml.safe_load(block)["resilience"]) == ResilienceConfig()


def test_the_grpc_contract_lists_the_metadata_that_is_sent() -> None:
    contract = (ROOT / "proto/pointsman/v1/gateway.proto").read_text().replace("\n//", "")
    listed = {*re.findall(r"x-pointsman-[a-z-]+", contract)}
    for names in re.findall(r"x-pointsman-\{([^}]+)\}", contract):
        listed |= {f"x-pointsman-{name.strip()}" for name in names.split(",")}
    gateway = ROOT / "services/gateway/src/pointsman_gateway"
    sources = [(gateway / file).read_text() for file in ("codec/headers.py", "grpc/servicer.py")]
    sent = {*re.findall(r'"(x-pointsman-[a-z-]+)"', "".join(sources))}
    assert len(sent) > 10
    assert sent <= listed


def test_everything_is_documented() -> None:
    listed = {"index.md", *re.findall(r"\]\(([\w/-]+\.md)\)", (ROOT / "docs/index.md").read_text())}
    pages = {*ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")}
    assert listed >= {str(page.relative_to(ROOT / "docs")) for page in pages}, "docs/index.md leads to every page"
    assert "](docs/index.md)" in (ROOT / "README.md").read_text()


def test_every_file_of_the_map_of_changes_exists_and_has_what_is_named_with_it() -> None:
    chapter = (ROOT / "docs/architecture.md").read_text().split("## To change X, open Y")[1].split("\n## ")[0]
    rows = [row for row in re.findall(r"^\| (.+?) \| (.+) \|$", chapter, re.MULTILINE) if row != ("change", "files")]
    assert len(rows) >= 40
    missing = []
    for change, files in rows:
        named = re.findall(r"`([\w.-]+(?:/[\w.-]+)*\.[a-z]+)`", files)
        assert named, f"{change}: names no file"
        unknown = [file for file in named if not (GATEWAY / file).is_file() and not (ROOT / file).is_file()]
        missing += [f"{change}: {file}" for file in unknown]
        for file, name in re.findall(r"`([\w./-]+\.[a-z]+)` \(`(\w+)`", files):
            found = GATEWAY / file if (GATEWAY / file).is_file() else ROOT / file
            missing += [] if re.search(rf"\b{name}\b", found.read_text()) else [f"{change}: {name} in {file}"]
    assert missing == []


@pytest.mark.parametrize(("page", "lines"), [("README.md", 120), ("CONTRIBUTING.md", 150)])
def test_a_first_page_is_short(page: str, lines: int) -> None:
    assert len((ROOT / page).read_text().splitlines()) <= lines


def test_the_documentation_can_be_read() -> None:
    assert sum(len(page.read_text().split()) for page in (ROOT / "docs").rglob("*.md")) <= 56_000


def test_the_test_that_is_explained_to_contributors_is_one_of_ours() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (explained,) = re.findall(r"^From `([^`]+)`:\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file, code = explained
    assert code in (ROOT / file).read_text()


def test_every_slow_folder_of_tests_has_a_row() -> None:
    (left_out,) = re.findall(r"^ELSEWHERE := .*,([\w ]+)\)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    page = (ROOT / "tests/README.md").read_text()
    assert [folder for folder in left_out.split() if f"`tests/{folder}`" not in page] == []
