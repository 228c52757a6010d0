"""`pointsman up --model FOLDER` serves a model of the user's own with the real engine."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
from pointsman_cli.data_dir import read_run

from tests.gateway.doubles.waiting import until

MODELS = Path(__file__).parents[2] / ".pointsman" / "models"


async def test_a_folder_is_served_under_its_name(tmp_path: Path) -> None:
    home, model = tmp_path / "home", tmp_path / "my-model"
    home.mkdir(mode=0o700)
    (home / "models").mkdir()
    (home / "models" / "minilm").symlink_to(MODELS / "minilm")
    model.mkdir()
    for file in (MODELS / "smollm2-135m").iterdir():
        if file.name != "pointsman.json":  # which says that it is the built-in model
            (model / file.name).symlink_to(file)
    options = ["--model", str(model), "--engine-arg=--enforce-eager", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
    with (tmp_path / "up.log").open("wb") as log:
        up = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman_cli", "up", *options, "--data-dir", str(home)),
            stdout=log, stderr=log, env={**os.environ, "POINTSMAN_LORA_MAX_MODEL_LEN": "2048"},
        )  # fmt: skip
    try:
        await until(lambda: (home / "run.json").exists() or up.returncode is not None, within=400)
        run = read_run(home / "run.json")
        assert run is not None, (tmp_path / "up.log").read_text()
        async with httpx.AsyncClient(base_url=run.http, timeout=120) as http:
            body = {
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
                "max_tokens": 20,
                "temperature": 0,
            }
            for name in ("auto", "my-model"):
                answered = await http.post("/v1/chat/completions", json={"model": name, **body})
                assert answered.status_code == 200, answered.text
                assert "Paris" in answered.json()["choices"][0]["message"]["content"]
            engine = (await http.get(f"{run.engine}/v1/models")).json()["data"][0]
            assert (engine["id"], engine["max_model_len"]) == ("my-model", 2048)
    finally:
        up.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(up.wait(), 90) == 0
