"""Measures how long the gateway takes from the bytes of a request's body to the chosen path.

    python benchmarks/decision.py        # after `make models`; needs no service

It uses one thread. The requests are the held-out triage messages and out-of-scope messages, as OpenAI bodies. The last
line of output is one JSON object.
"""

import argparse
import asyncio
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import uvloop
from pointsman_gateway import bootstrap
from pointsman_gateway.config.load import load_config
from pointsman_gateway.http.dialects.openai.chat import ChatBody
from pointsman_gateway.settings import Settings
from pointsman_servicekit.process import freeze_gc

ROOT = Path(__file__).parents[1]
HELPDESK = ROOT / "examples/helpdesk"


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    rounds = arguments.parse_args().rounds
    settings = Settings(config=HELPDESK / "config", embedding_model=ROOT / ".pointsman/models/minilm")
    async with bootstrap.build_gateway(settings, load_config(settings.config)) as components:
        freeze_gc()
        seconds = defaultdict(list)
        for number in range(rounds + 1):
            for body in bodies():
                started = time.perf_counter()
                request = ChatBody.model_validate_json(body).to_request(float("inf"))
                routed = await components.pipeline.decide(request)
                if number:  # the first round is a warm-up
                    seconds[routed.decision.stage].append(time.perf_counter() - started)
    count = sum(map(len, seconds.values()))
    result = {
        stage: {
            "share": round(len(times) / count, 3),
            "p50_us": round(1e6 * float(np.quantile(times, 0.5)), 1),
            "p99_us": round(1e6 * float(np.quantile(times, 0.99)), 1),
        }
        for stage, times in sorted(seconds.items())
    }
    for stage, figures in result.items():
        print(f"{stage:12} {figures['share']:6.1%}  p50 {figures['p50_us']:8.1f} us  p99 {figures['p99_us']:8.1f} us")
    print(json.dumps(result))


def bodies() -> list[bytes]:
    texts = [
        json.loads(row)["text"]
        for name in ("triage", "unknown")
        for row in (HELPDESK / f"heldout/{name}.jsonl").read_text("utf-8").splitlines()
    ]
    return [json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}).encode() for text in texts]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the gateway uses the same event loop
        runner.run(main())
