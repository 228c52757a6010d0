"""Entry point of the offline tools: fit, replay, suggest, data and plan."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from pointsman_embedding import ModelMissing
from pointsman_gateway import wiring
from pointsman_gateway.config.load import Config, ConfigError, load_config
from pointsman_gateway.settings import Settings
from pointsman_gateway.wiring.learning import Models, learn
from pointsman_servicekit.errors import PointsmanError

from pointsman_lab.datasets.build import DatasetOptions, build
from pointsman_lab.datasets.reports import data_report, plan_report
from pointsman_lab.fit import ARTEFACT, fit
from pointsman_lab.replay import build_replay_context, replay
from pointsman_lab.replay_report import replay_report
from pointsman_lab.report import ProgressLines, Report
from pointsman_lab.request_log import open_history, read_evidence, seconds_of
from pointsman_lab.suggest_report import suggest_report
from pointsman_lab.suggestions import inspect_examples, inspect_request_log, write_proposals

INTERRUPTED = 130

Command = Callable[[argparse.Namespace, Settings], Coroutine[Any, Any, Report]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Progress goes to standard error, the report to standard output. The exit code is 1 after a
    failure or a rejection."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        report = asyncio.run(command(options, Settings()))
    except PointsmanError as error:
        return _failed(error.message)
    except (ConfigError, ModelMissing, OSError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    print(report.as_json() if options.json else report.as_text(), flush=True)
    return _failed(report.refused) if report.refused else 0


def _failed(why: str) -> int:
    print(f"error: {' '.join(why.split())}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print what was found as one line of JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fitting = commands.add_parser("fit", help="learn the tasks from their examples; write what was learned")
    fitting.set_defaults(command=_fit)
    fitting.add_argument("--out", type=Path, metavar="FILE", help=f"else {ARTEFACT} in the folder")
    replaying = commands.add_parser("replay", help="decide the journal's requests again by another configuration")
    replaying.set_defaults(command=_replay)
    replaying.add_argument("--examples", type=int, default=10, metavar="N")
    replaying.add_argument("--fail-if-changed", type=float, metavar="SHARE", help="exit with 1 where more change")
    suggesting = commands.add_parser("suggest", help="list what would make the classifier better")
    suggesting.set_defaults(command=_suggest)
    suggesting.add_argument("--write", type=Path, metavar="FILE", help="write the proposed examples there")
    gathering = commands.add_parser("data", help="make the next version of a task's data set")
    gathering.set_defaults(command=_data)
    gathering.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the versions are")
    gathering.add_argument(
        "--taught",
        dest="teacher_answers",
        type=Path,
        metavar="FILE",
        help='what the teacher answered: {"text", "answer"}',
    )
    planning = commands.add_parser("plan", help="say what the configuration says of a task's flywheel")
    planning.set_defaults(command=_plan)
    for parsed in (fitting, replaying, suggesting, gathering, planning):
        parsed.add_argument("folder", type=Path, help="a configuration")
    for parsed in (gathering, planning):
        parsed.add_argument("task", help="one of its tasks")
    for parsed in (replaying, suggesting):
        parsed.add_argument("--since", default="24h", metavar="AGE", help="30m, 24h, 7d")
    for parsed in (replaying, suggesting, gathering):
        parsed.add_argument("--redis", metavar="URL", help="else POINTSMAN_GATEWAY_REDIS_URL")
    return parser


def _checked(folder: Path) -> Config:
    config = load_config(folder)
    wiring.check(config)
    return config


async def _fit(options: argparse.Namespace, settings: Settings) -> Report:
    config = _checked(options.folder)
    return fit(config, Models.load(settings.embedding_model), options.out, ProgressLines())


async def _replay(options: argparse.Namespace, settings: Settings) -> Report:
    seconds, config = seconds_of(options.since), _checked(options.folder)
    url = options.redis or settings.redis_url
    if not url:
        raise ConfigError("there is no journal to replay; --redis or POINTSMAN_GATEWAY_REDIS_URL names its Redis")
    async with open_history(url) as history:
        evidence = await read_evidence(history, config.tasks.journal.evidence_days)
        learned = learn(config, Models.load(settings.embedding_model), ProgressLines())
        context = build_replay_context(config, learned, evidence)
        diff = await replay(context, history, seconds, options.examples, ProgressLines())
    return replay_report(diff, config.digest, options.since, options.examples, options.fail_if_changed)


async def _suggest(options: argparse.Namespace, settings: Settings) -> Report:
    seconds, config = seconds_of(options.since), _checked(options.folder)
    models, progress, url = (
        Models.load(settings.embedding_model),
        ProgressLines(),
        options.redis or settings.redis_url,
    )
    of_examples = inspect_examples(config, models, progress)
    if not url:
        return suggest_report(of_examples, None, options.since, "")
    async with open_history(url) as history:
        of_journal = await inspect_request_log(config, models, history, seconds, progress)
    if options.write:
        write_proposals(of_journal.proposals, options.write)
    return suggest_report(of_examples, of_journal, options.since, str(options.write or ""))


async def _data(options: argparse.Namespace, settings: Settings) -> Report:
    config, url = _checked(options.folder), options.redis or settings.redis_url
    wish = DatasetOptions(options.task, options.out, options.teacher_answers)
    if not url:
        return data_report(await build(config, None, wish))
    async with open_history(url) as history:
        return data_report(await build(config, history, wish))


async def _plan(options: argparse.Namespace, settings: Settings) -> Report:
    return plan_report(_checked(options.folder), options.task)


if __name__ == "__main__":
    sys.exit(main())
