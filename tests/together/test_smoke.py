"""Smoke tests with the real PEFT and the real base model: the answers of the example's adapters, and merging."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from pointsman_lora_server.checks.attachments import Sample, Turn
from pointsman_lora_server.checks.base_layers import read_base
from pointsman_lora_server.domain import AdapterVersion
from pointsman_lora_server.smoke.reference import compare
from pointsman_lora_server.smoke.runner import PeftSmokeTest
from pointsman_lora_server.store import ArtifactStore
from pointsman_servicekit.errors import InvalidArgument

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = ROOT / ".venv-engine" / "bin" / "python"
BASE_MODEL = ROOT / ".pointsman" / "models" / "smollm2-135m"
EXAMPLES = ROOT / "examples" / "helpdesk"
SOURCES = {"PYTHONPATH": str(ROOT / "services" / "lora-server" / "src")}

MERGE_TRIAL = """
import sys, torch
from pathlib import Path
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from pointsman_lora_server.smoke.merge import merge
home, tokenizer = Path(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[2])
torch.manual_seed(0)
sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
tiny = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
tiny.save_pretrained(home / "base")
tokenizer.save_pretrained(home / "base")
config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_dora=True, task_type="CAUSAL_LM")
dora = get_peft_model(tiny, config)
with torch.no_grad():
    for name, weight in dora.named_parameters():
        if "lora_" in name:
            weight += 0.3 * torch.rand_like(weight)
dora.save_pretrained(home / "adapter")
ids = torch.tensor([tokenizer("Where is my train?").input_ids])
right = dora.eval()(ids).logits
merge(home / "base", home / "adapter", home / "merged")
merged = AutoModelForCausalLM.from_pretrained(home / "merged", dtype=torch.float32)(ids).logits
plain = AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32)(ids).logits
print(float((merged - right).abs().max()), float((merged - plain).abs().max()))
"""

HOLD = """
import asyncio, sys
from pathlib import Path
from pointsman_lora_server.smoke.runner import SmokeWorker, worker_command
async def main():
    command = worker_command(Path(sys.argv[1]), "pointsman_lora_server.smoke.worker", sys.argv[2])
    child = await SmokeWorker.start(command, 0.5)
    await child.receive(120)
    print(child.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def base_model() -> Path:
    module = ("-m", "pointsman_lora_server.base_model", str(BASE_MODEL))
    subprocess.run([ENGINE_PYTHON, *module], env=os.environ | SOURCES, check=True, timeout=600)
    return BASE_MODEL


@pytest.fixture(scope="module")
def kept(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[AdapterVersion, Path]]:
    store = ArtifactStore(tmp_path_factory.mktemp("store"), read_base(base_model, "smollm2-135m"), max_rank=8)
    versions = {name: store.add(name, EXAMPLES / "adapters" / name, {}) for name in ("triage", "voice")}
    return {name: (version, store.fetch(version)) for name, version in versions.items()}


@pytest.fixture(scope="module")
def samples() -> tuple[Sample, ...]:
    lines = (EXAMPLES / "heldout" / "triage.jsonl").read_text().splitlines()[:16]
    rows = [json.loads(line) for line in lines]
    return tuple(Sample((Turn("user", row["text"]),), json.dumps(row["output"], ensure_ascii=False)) for row in rows)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def smoke(base_model: Path) -> AsyncIterator[PeftSmokeTest]:
    trying = PeftSmokeTest(ENGINE_PYTHON, base_model)
    yield trying
    await trying.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_the_examples_adapters_pass_with_different_answers(
    smoke: PeftSmokeTest, kept: dict[str, tuple[AdapterVersion, Path]], samples: tuple[Sample, ...]
) -> None:
    triage = await smoke.run(*kept["triage"], samples)
    pid = smoke.pid
    voice = await smoke.run(*kept["voice"], ())
    again = await smoke.run(*kept["triage"], samples)

    assert again == triage, "one version left something of itself on the base model"
    assert smoke.pid == pid is not None
    assert all(row.text.startswith('{"intent": "') for row in triage.rows)
    assert compare(triage, again.rows).same == 4
    with pytest.raises(InvalidArgument, match="differently than PEFT"):
        compare(triage, voice.rows)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_adapter_that_continues_after_its_answer_is_rejected(
    smoke: PeftSmokeTest, kept: dict[str, tuple[AdapterVersion, Path]]
) -> None:
    sample = Sample((Turn("user", "Refund please."),), '{"intent": "refund"')

    with pytest.raises(InvalidArgument) as caught:
        await smoke.run(*kept["triage"], [sample])

    assert caught.value.code == "does_not_stop"


@pytest.fixture
def holder(base_model: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Yields the parent process of a smoke test's process, and the process id of the latter."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(ENGINE_PYTHON), str(base_model)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process, int(process.stdout.readline())
        process.kill()


def test_the_process_has_low_priority_and_does_not_outlive_a_killed_server(
    holder: tuple["subprocess.Popen[str]", int],
) -> None:
    server, trial = holder
    assert os.getpriority(os.PRIO_PROCESS, trial) == min(os.getpriority(os.PRIO_PROCESS, 0) + 10, 19)
    assert os.sched_getscheduler(trial) == os.SCHED_OTHER  # with SCHED_IDLE it would get no time beside a busy engine

    server.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 10
    while _runs(trial):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_dora_merged_into_full_weights_answers_as_peft_does(base_model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [ENGINE_PYTHON, "-W", "ignore", "-c", MERGE_TRIAL, str(tmp_path), str(base_model)],
        env=os.environ | SOURCES | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr
    off, changed = map(float, done.stdout.split()[-2:])
    assert off < 0.01 < 0.1 < changed
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in (tmp_path / "merged").iterdir()
    }


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
