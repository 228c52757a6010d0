"""Mutated configuration files: each is read, or rejected with an error that says why."""

from pathlib import Path
from random import Random
from typing import Any

import yaml
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config

from tests.fuzz.mutations import change_bytes, change_json
from tests.fuzz.rig import configure
from tests.gateway.doubles.config_folder import ConfigFolder

FILES = ("models.yaml", "paths.yaml", "tasks.yaml")
ENVIRONMENT = {"HOME": "/root", "FUZZED_ENGINE_KEY": "x"}
DOCUMENTS = (
    b"a: &a [*a]\n",
    b"a: &a {b: 1}\nmodels: {<<: *a}\n",
    b"!!python/object/apply:os.system [x]\n",
    b"- [\n",
    b"\t",
    b"? {a: 1}\n: b\n",
    b"a: ${HOME}\nb: ${NONE}\n",
    b"a: 1\na: 2\n",
    b"--- a\n--- b\n",
    b"%YAML 9.9\n---\n",
    b"2026-99-99: 1\n",
    b"a: 0x" + b"f" * 5000 + b"\n",
    b"[" * 2000,
    b"{a: " * 500,
    b"a: !!binary '?'\n",
    b"a: !!float x\n",
    b"a: .nan\n",
    b"~: ~\n",
    b"a: !!set {x, y}\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % ((98 + n, 98 + n) + (97 + n,) * 9) for n in range(8)
    ),
)


def reader(root: Path) -> Any:
    return carry_out


def carry_out(random: Random, folder: Path) -> None:
    """Writes a configuration, changes one of its files, and reads it. Raises any exception except ConfigError, which is
    expected.
    """
    config = ConfigFolder(folder)
    configure(config, "http://127.0.0.1:1")
    _change(random, config)
    config.write()
    if random.random() < 0.3:
        file = random.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
        whole = random.random() < 0.3
        file.write_bytes(random.choice(DOCUMENTS) if whole else change_bytes(random, file.read_bytes()))
    if random.random() < 0.1:
        _join(folder)
    try:
        load_config(folder, ENVIRONMENT)
    except ConfigError as error:
        if not str(error).strip():
            raise AssertionError("an error without a message") from error


def _change(random: Random, config: ConfigFolder) -> None:
    part = random.choice(("models", "paths", "tasks", "rest_of_tasks"))
    changed = change_json(random, getattr(config, part))
    if isinstance(changed, dict):
        setattr(config, part, {str(name): value for name, value in changed.items()})


def _join(folder: Path) -> None:
    """Joins the three files into one, pointsman.yaml, unless one of them cannot be parsed."""
    try:
        parts = [yaml.safe_load((folder / name).read_text()) for name in FILES]
        text = yaml.safe_dump({name: value for part in parts for name, value in part.items()})
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError, TypeError):
        return
    (folder / "pointsman.yaml").write_text(text)
    for name in FILES:
        (folder / name).unlink()
