"""Stands for Python in the engine's environment: `engine_python.py FOLDER ARGUMENTS-OF-PYTHON`.

It starts the engine's double instead of vLLM. Instead of a smoke test with PEFT it runs a program that reports the
adapter's "answer_ids" (so do the double's answers), and that waits while a file "hold-trials" is in FOLDER.
"""

import ctypes
import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

from pointsman_lora_server.smoke.worker import PR_SET_PDEATHSIG

FAKE_ENGINE = Path(__file__).parent / "fake_engine.py"


def become_engine(given: list[str]) -> None:
    value = dict(pairwise(given))
    double = ["--port", value["--port"], "--base", value["--served-model-name"], "--slots", value["--max-cpu-loras"]]
    if "--answer-seconds" in value:
        double += ["--answer-seconds", value["--answer-seconds"]]
    os.execv(sys.executable, [sys.executable, str(FAKE_ENGINE), *double])


def try_adapters(folder: Path) -> None:
    # As the real worker does: else one that the lora-server has stopped would outlive it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.getppid()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        config = json.loads((Path(json.loads(line)["folder"]) / "adapter_config.json").read_text())
        while (folder / "hold-trials").exists() and os.getppid() == parent:  # otherwise it would wait without end
            time.sleep(0.01)
        print(json.dumps({"trial": trial(config["answer_ids"])}), flush=True)


def trial(ids: list[int]) -> dict[str, object]:
    row = {"prompt_ids": [1, 2, 3], "token_ids": ids, "gaps": [9.0] * len(ids), "text": "", "finite": True}
    return {"rows": [row], "difference": 9.0, "stops": True, "exact": True}


if __name__ == "__main__":
    if "vllm.entrypoints.openai.api_server" in sys.argv:
        become_engine(sys.argv[2:])
    else:
        try_adapters(Path(sys.argv[1]))
