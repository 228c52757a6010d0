"""Writes JSON Schemas of the configuration, by which editors complete and check it: `make schema`.

They are generated from the models that read the configuration. Values that come from `${VARIABLE}` are strings, which
an editor may report where a number belongs.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointsman_cli.example import ExampleFile
from pointsman_gateway.config.access_file import AccessFile
from pointsman_gateway.config.field_types import Strict
from pointsman_gateway.config.models_file import ModelsFile
from pointsman_gateway.config.paths_file import PathsFile
from pointsman_gateway.config.tasks_file import TasksFile
from pydantic import BaseModel, create_model

_FILES: Mapping[str, type[BaseModel]] = {
    "models": ModelsFile,
    "paths": PathsFile,
    "tasks": TasksFile,
    "access": AccessFile,
}
_DIALECT = "http://json-schema.org/draft-07/schema#"
"""The newest version of JSON Schema that the usual YAML language server supports fully."""


def schemas() -> Mapping[str, dict[str, Any]]:
    """Returns the JSON Schema of each configuration file by the file's name without its ending ("models", "tasks",
    ...).

    "pointsman" is the single file that has the content of all others.
    """
    return {"pointsman": _schema(_single_file()), **{name: _schema(file) for name, file in _FILES.items()}}


def _single_file() -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (field.annotation, field) for file in _FILES.values() for name, field in file.model_fields.items()
    }
    fields |= {name: (field.annotation, field) for name, field in ExampleFile.model_fields.items() if name != "config"}
    return create_model("Configuration", __base__=Strict, prompts=(dict[str, str], {}), **fields)


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"$schema": _DIALECT, **schema, "title": f"Pointsman: {schema['title']}"}


def write(folder: Path) -> None:
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        (folder / f"{name}.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab.config_schema", description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
