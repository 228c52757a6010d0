"""Which steps there are, and who does their work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pointsman_cli.data_dir import DataDir, read_run
from pointsman_cli.distill.asking import Gateway
from pointsman_cli.distill.canary_step import CanaryStep
from pointsman_cli.distill.data_step import DataStep
from pointsman_cli.distill.dating import Dating
from pointsman_cli.distill.evaluate_step import EvaluateStep
from pointsman_cli.distill.lora_server import Registry, Trainer
from pointsman_cli.distill.machine import Step, turn
from pointsman_cli.distill.plan import Plan
from pointsman_cli.distill.progress import Lines
from pointsman_cli.distill.promote_step import PromoteStep
from pointsman_cli.distill.scoring import scorer_of
from pointsman_cli.distill.state import Ledger, RunState
from pointsman_cli.distill.train_step import TrainStep
from pointsman_cli.errors import UsageError
from pointsman_cli.lab import LabJob, lab_facts
from pointsman_cli.options import web_url

STEPS = ("data", "train", "evaluate", "canary", "promote")


@dataclass(frozen=True, slots=True)
class Addresses:
    url: str
    redis: str
    """Empty: nothing is kept anywhere, and examples and the teacher are all there is to learn from."""
    retriever: str
    lora_server: str

    @classmethod
    def of(cls, data_dir: DataDir, url: str, redis: str, retriever: str, lora_server: str) -> "Addresses":
        """Those that are named, else those of the running `pointsman up`. Raises Misused."""
        running = read_run(data_dir.run_file)
        if running is not None:
            url, redis = url or running.http, redis or running.redis_url
            retriever, lora_server = retriever or running.retriever, lora_server or running.lora_server
        if not url or not lora_server:
            raise UsageError("nothing runs here; name the gateway with --url and the lora-server with --lora-server")
        return cls(web_url(url), redis, retriever, lora_server)


@dataclass(frozen=True, slots=True)
class Wish:
    task: str
    config: Path
    data: Path
    texts: Path | None
    method: str
    until: str


async def distilled(
    plan: Plan, wish: Wish, ledger: Ledger, data_dir: DataDir, addresses: Addresses, gateway: Gateway, console: Console
) -> RunState:
    """Raises CommandError or PointsmanError; then the run goes on with the next call."""
    lines = Lines(console)
    registry = Registry(addresses.lora_server, f"retrain {ledger.state.run}")
    arguments = ["data", str(wish.config), wish.task, "--out", str(wish.data)]
    if addresses.redis:
        arguments += ["--redis", addresses.redis]

    async def build(taught: Path | None) -> dict[str, Any]:
        more = ["--teacher-answers", str(taught)] if taught else []
        return await lab_facts(LabJob([*arguments, *more], data_dir, as_json=True))

    async with gateway.open() as client:
        scorer = scorer_of(wish.task, plan.metric, client)
        steps: Sequence[Step] = (
            DataStep(plan, wish.method, gateway, build, ledger.folder, wish.texts, lines.count),
            TrainStep(
                plan,
                wish.method,
                Trainer(addresses.lora_server, lines.training),
                registry,
                Dating(addresses.retriever, "", plan.collections),
            ),
            EvaluateStep(plan, gateway, registry, scorer, ledger.folder, lines.count),
            CanaryStep(plan, registry, lines.count),
            PromoteStep(plan, registry),
        )
        return await turn(steps, ledger, registry.retire, lines.say, wish.until)
