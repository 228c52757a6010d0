"""Takes the screenshots of docs/console.md from `pointsman up examples/helpdesk`, with the real engine and real
requests.

In this copy of the help desk the policy of `triage` is `best_value`, so that the minimum score is visible. Its answers
are rated with the held-out set: 1 if the JSON is exactly correct, else 0. The spending of the days before is invented.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from playwright.async_api import Browser, Page, async_playwright, expect
from pointsman_gateway.request_log import spending
from pointsman_gateway.request_log.redis_schema import SPENDING, last_days
from pointsman_servicekit.redis_clients import open_client

from tests.console.visitor import CHROMIUM, visiting
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "helpdesk"
POINTSMAN = Path(sys.executable).parent / "pointsman"
MAX_START_SECONDS = 420.0
RATED = 18
"""Number of triage requests that are sent and rated."""
MAX_BYTES = 200_000

OURS = {"x-pointsman-console": "1"}
ASKED = [
    "Do I have to reserve a space for my bicycle?",
    "how long do i have to claim money back when a train is late",
    "May my dog come into the quiet coach?",
    "Draft a reply to a customer who asks whether her dog needs a ticket.",
    "What do 2 adults and 1 child of 8 pay together for singles from Larkmoor to Alder Bridge?",
    "hello there, how are you today?",
    "Write a SQL query that joins two tables on their ids.",
]
LATE = "The train from Penny Hill on 3 May was 50 minutes late. I want my compensation, booking LM-48213."
SECTIONS = (("ask", ""), ("paths", ""), ("tasks", ".task:nth-child(4)"), ("adapters", ""), ("spend", ""))
"""The sections of which pictures are taken, and the last element in each; empty: the whole section."""
WIDTH = 1360
"""Pixels; below 1341 the page shows each row of a table as a block."""
BEST_VALUE = {"quality_floor": 0.5, "min_samples": 5, "exploration_rate": 0.5}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        async with help_desk(Path(home)) as url:
            await live(url)
            await spend(json.loads((Path(home) / "run.json").read_text())["redis_url"])
            async with async_playwright() as playwright:
                browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
                await take_pictures(browser, url, folder)
                await browser.close()
    for picture in sorted(folder.glob("console-*.png")):
        print(f"{picture}: {picture.stat().st_size} bytes")
        assert picture.stat().st_size < MAX_BYTES, picture


@asynccontextmanager
async def help_desk(home: Path) -> AsyncIterator[str]:
    """Runs the help desk with a canary of the triage adapter for a tenth of the users."""
    (home / "models").symlink_to(ROOT / ".pointsman" / "models")
    example = Path(shutil.copytree(EXAMPLE, home / "helpdesk"))
    weigh(example / "config" / "tasks.yaml")
    http = f"127.0.0.1:{free_port()}"
    apis = ["--http", http, "--grpc", f"127.0.0.1:{free_port()}"]
    up = subprocess.Popen([POINTSMAN, "up", example, "--data-dir", home, *apis], cwd=ROOT)  # noqa: ASYNC220  # it forks at once
    try:
        async with asyncio.timeout(MAX_START_SECONDS):
            while not (home / "run.json").exists():  # a file has no event
                assert up.poll() is None, "pointsman up ended"
                await asyncio.sleep(0.5)
        await try_out(another_version(home), home, f"http://{http}")
        yield f"http://{http}"
    finally:
        up.send_signal(signal.SIGINT)
        await asyncio.to_thread(up.wait, 90)


def weigh(tasks: Path) -> None:
    read = yaml.safe_load(tasks.read_text())
    triage = read["tasks"]["triage"]
    triage["policy"] = {"best_value": {"paths": triage["policy"]["escalate"]["paths"], **BEST_VALUE}}
    tasks.write_text(yaml.safe_dump(read, sort_keys=False))


def another_version(home: Path) -> Path:
    """Returns the triage adapter with slightly smaller weights, which the engine treats as another version."""
    folder = Path(shutil.copytree(EXAMPLE / "adapters" / "triage", home / "triage-next"))
    config = folder / "adapter_config.json"
    read = json.loads(config.read_text())
    config.write_text(json.dumps(read | {"lora_alpha": read["lora_alpha"] - 1}))
    return folder


async def try_out(folder: Path, home: Path, url: str) -> None:
    text = await asyncio.to_thread(pointsman, home, "adapters", "register", "triage", str(folder))
    async with httpx.AsyncClient(base_url=url, headers=OURS, timeout=200) as client:
        (registry,) = (await client.get("/console/api/adapters")).json()["models"]
        canary = {
            "model": registry["model"],
            "alias": "triage@prod",
            "version": text.rsplit(maxsplit=1)[-1],
            "weight": 0.1,
        }
        (await client.post("/console/api/adapters/canary", json=canary)).raise_for_status()


def pointsman(home: Path, *arguments: str) -> str:
    program: list[str | Path] = [POINTSMAN, *arguments, "--data-dir", home]
    done = subprocess.run(program, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


MONTH = {
    ("handbook_answer", "smollm2-135m"): (900, 410, 61, 24_000_000),
    ("triage_adapter", "triage@3f9a1c0b77de"): (1400, 96, 28, 2_600_000),
    ("triage_few_shot", "smollm2-135m"): (240, 610, 33, 11_000_000),
    ("small_talk", "smollm2-135m"): (310, 58, 44, 3_500_000),
}
"""By path and model: requests of a working day, and of one request the tokens in and out, and picodollars."""


async def spend(redis: str) -> None:
    """Adds a month of invented spending, by which weekends and the growth of a new installation can be seen."""
    drawn = random.Random(7)
    async with open_client(redis) as opened:
        for age, day in enumerate(last_days(30)[1:], 1):
            counts: spending.SpendingCounts = {}
            weight = (0.35 if (age + 1) % 7 < 2 else 1) * (1 - age / 45)
            for (path, model), (requests, tokens_in, tokens_out, picodollars) in MONTH.items():
                number = round(requests * weight * drawn.uniform(0.8, 1.2))
                counts[spending.SpendingKey("", "", path, model)] = {
                    spending.REQUESTS: number,
                    spending.FAILED: number // 190,
                    spending.PROMPT_TOKENS: number * tokens_in,
                    spending.CACHED_TOKENS: number * tokens_in // 3,
                    spending.COMPLETION_TOKENS: number * tokens_out,
                    spending.PICODOLLARS: number * picodollars,
                }
            await opened.client.hset(SPENDING + day, mapping=spending.to_fields(counts))


async def live(url: str) -> None:
    rows = [json.loads(line) for line in (EXAMPLE / "heldout" / "triage.jsonl").read_text().splitlines()]
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        for number, row in enumerate(rows[:RATED]):
            decision, answer = await ask(client, row["text"], f"user-{number}")
            right = float(as_json(answer) == row["output"])
            (await client.post("/v1/feedback", json={"decision_id": decision, "rating": right})).raise_for_status()
            if number < len(ASKED):
                await ask(client, ASKED[number], f"user-{number}")


async def ask(client: httpx.AsyncClient, text: str, user: str) -> tuple[str, str]:
    """Sends a request; returns the decision's id and the answer."""
    body = {"model": "auto", "user": user, "messages": [{"role": "user", "content": text}]}
    response = await client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    return response.headers["x-pointsman-decision-id"], response.json()["choices"][0]["message"]["content"]


def as_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


async def take_pictures(browser: Browser, url: str, folder: Path) -> None:
    async with visiting(browser, url, WIDTH) as visitor:
        page = visitor.page
        await visitor.ask(LATE)
        await expect(page.locator("#ask-status")).to_contain_text("together", timeout=60_000)
        await expect(page.locator("[data-decision]").first).to_be_visible()
        await expect(page.locator("#spend-total")).to_contain_text("in 30 days")
        for name, last in SECTIONS:
            await section(page, name, folder, last)
    async with visiting(browser, url, WIDTH, scheme="dark") as visitor:
        page = visitor.page
        by_policy = page.locator("[data-decision]").filter(has_text="triage_adapter").filter(has_text="policy:")
        await by_policy.first.locator("button").click()
        await expect(page.locator("dialog .considered")).to_be_visible()
        await page.screenshot(path=folder / "console-decision.png")
    async with visiting(browser, url, 420, scheme="dark") as visitor:
        await visitor.ask(ASKED[0], "chosen")
        await expect(visitor.page.locator("#ask-status")).to_contain_text("together", timeout=60_000)
        await visitor.page.screenshot(path=folder / "console-narrow.png")


async def section(page: Page, name: str, folder: Path, last: str) -> None:
    """Takes a picture of a section of the page, from its top to the element `last`; an empty `last` means the whole
    section.
    """
    if not last:  # the element's own picture is right even if the page above has grown meanwhile
        await page.locator(f"section#{name}").screenshot(path=folder / f"console-{name}.png")
        return
    box = await page.locator(f"section#{name}").bounding_box()
    end = await page.locator(f"section#{name} {last}").first.bounding_box()
    assert box is not None
    assert end is not None
    scrolled: float = await page.evaluate("scrollY")
    height = end["y"] + end["height"] - box["y"] + 8
    clip = {"x": 0, "y": box["y"] + scrolled, "width": WIDTH, "height": height}
    await page.screenshot(path=folder / f"console-{name}.png", full_page=True, clip=clip)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main())
