"""What a built-in extension costs: a new file, and one line in the registry of its kind. Each example of the
documentation is added in this way to a copy of the package, and then works like the existing ones.

An endpoint dialect is added in tests/gateway/test_endpoint_dialect.py.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "extensions" / "pointsman_examples"
CHECK_SECONDS = 120

GATEWAY, SCORING = "services/gateway/src/pointsman_gateway", "libs/scoring/src/pointsman_scoring"
RETRIEVER, LORA_SERVER = "services/retriever/src/pointsman_retriever", "services/lora-server/src/pointsman_lora_server"

ADDITIONS = [
    ("by_length", "policy", "ByLength", GATEWAY, "routing/by_length.py", "extensions/policy.py"),
    ("today", "strategy", "Today", GATEWAY, "prompts/today.py", "extensions/strategy.py"),
    ("max_words", "validator", "MaxWords", GATEWAY, "validation/max_words.py", "extensions/validator.py"),
    ("forbidden_words", "guardrail", "ForbiddenWords", GATEWAY, "validation/words.py", "extensions/guardrail.py"),
    ("close_to", "metric", "CloseTo", SCORING, "close_to.py", "registry.py"),
    ("gaussian_lora", "training_method", "GaussianLora", LORA_SERVER, "training/methods/gaussian.py",
     "training/methods/registry.py"),
    ("numpy", "vector_store", "NumpyStore", RETRIEVER, "index/numpy_index.py", "index/vector_stores.py"),
    ("json_lines", "external_store", "JsonLinesFile", RETRIEVER, "external/json_lines.py", "external/stores.py"),
    ("word_overlap", "reranker", "WordOverlap", RETRIEVER, "rerank/word_overlap.py", "rerank/rerankers.py"),
]  # fmt: skip
"""The name, the example's file and class, and the package with the new file and the registry."""


@pytest.mark.parametrize(("name", "example", "attribute", "package", "file", "registry"), ADDITIONS)
def test_one_file_and_one_line_add_an_extension(
    tmp_path: Path, model_folder: Path, name: str, example: str, attribute: str, package: str, file: str, registry: str
) -> None:
    copy = Path(shutil.copytree(ROOT / package, tmp_path / "src" / Path(package).name))
    assert not (copy / file).exists()
    shutil.copy(EXAMPLES / f"{example}.py", copy / file)
    module = ".".join((copy.name, *Path(file).with_suffix("").parts))
    lines = (copy / registry).read_text("utf-8").splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if f'": "{copy.name}.' in line)
    indent = lines[first].partition('"')[0]
    lines.insert(first, f'{indent}"{name}": "{module}:{attribute}",\n')
    (copy / registry).write_text("".join(lines), "utf-8")

    (tmp_path / "work").mkdir()
    command = (
        "-c",
        f"from tests.built_in_extensions import check_{example} as check; import sys; check(*sys.argv[1:])",
    )
    path = os.pathsep.join(filter(None, (str(copy.parent), os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(
        [sys.executable, *command, str(tmp_path / "work"), str(model_folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
