"""The command line of the offline tools (`python -m pointsman_lab`): init, import, fit, predict, replay, suggest and
others.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pointsman_embedding import ModelMissing
from pointsman_gateway import bootstrap
from pointsman_gateway.bootstrap.models import EmbeddingModels, to_loaded
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.prompts.retriever import RetrieverClient
from pointsman_gateway.settings import Settings
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.service_tokens import open_token
from pointsman_servicekit.tls import client_tls

from pointsman_lab.datasets.build import BuildOrder, build, data_report, plan_report
from pointsman_lab.datasets.rendering import ChosenPassages, PathRenderer, QueryEmbedding, RenderOrder, render
from pointsman_lab.fit import ARTIFACT, fit, fit_model
from pointsman_lab.litellm_import import import_litellm
from pointsman_lab.log_source import LogSource
from pointsman_lab.prediction.command import PredictOrder, learn
from pointsman_lab.prediction.policy import Target
from pointsman_lab.prices.price_import import ImportOrder, import_prices
from pointsman_lab.reconcile.arguments import add_arguments, read_order
from pointsman_lab.reconcile.reconciliation import reconcile
from pointsman_lab.redis_log import open_redis_log
from pointsman_lab.replay import build_context, replay
from pointsman_lab.replay_report import replay_report
from pointsman_lab.report import ProgressLines, Report
from pointsman_lab.request_log import parse_age, read_evidence
from pointsman_lab.starter import Answers, configuration, read_labelled, starter_report, token_prices, write_checked
from pointsman_lab.suggestions import check_examples, check_log, suggest_report, write_proposals
from pointsman_lab.wrappers import find_in_log, wrappers_report, write_entries

INTERRUPTED = 130

Command = Callable[[argparse.Namespace, Settings], Coroutine[Any, Any, Report]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command of the offline tools that `arguments` name; None: the arguments of this process.

    Prints progress to standard error, and the report to standard output. Returns the exit code: 0 if all is well, 1 if
    the command or its check fails, 130 after Ctrl-C. Wrong arguments end the process with code 2.
    """
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        report = asyncio.run(command(options, Settings()))
    except PointsmanError as error:
        return _fail(error.message)
    except (ConfigError, ModelMissing, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    print(report.as_json() if options.json else report.as_text(), flush=True)
    return _fail(report.failure) if report.failure else 0


def _fail(reason: str) -> int:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lab", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    init_parser = commands.add_parser("init", help="write a configuration for an engine and labelled messages")
    init_parser.set_defaults(command=_init)
    init_parser.add_argument("--engine", default="", metavar="URL", help="or the name of a provider")
    init_parser.add_argument("--base-model", default="", metavar="NAME", help="that vLLM serves, instead of --engine")
    init_parser.add_argument("--usd-per-million-tokens", default="", metavar="PROMPT,CACHED,COMPLETION")
    init_parser.add_argument("--model", required=True, action="append", metavar="NAME[=TOKENS]")
    init_parser.add_argument("--key-env", default="", metavar="NAME")
    init_parser.add_argument("--examples", required=True, type=Path, metavar="FILE")
    init_parser.add_argument("--dry-run", action="store_true", help="only read the messages; needs no embedding model")
    import_parser = commands.add_parser("import", help="translate a config.yaml of LiteLLM")
    import_parser.set_defaults(command=_import)
    import_parser.add_argument("--config", required=True, type=Path, metavar="FILE")
    prices_parser = commands.add_parser("prices", help="compare the models' prices with LiteLLM's, and write them")
    prices_parser.set_defaults(command=_prices)
    prices_parser.add_argument("--from", required=True, dest="source", metavar="litellm|FILE")
    prices_parser.add_argument("--model", action="append", default=[], metavar="NAME")
    prices_parser.add_argument("--starting", type=date.fromisoformat, metavar="YYYY-MM-DD")
    prices_parser.add_argument("--write", action="store_true")
    fit_parser = commands.add_parser("fit", help="train the classifier on the tasks' examples and write it to a file")
    fit_parser.set_defaults(command=_fit)
    fit_parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: {ARTIFACT} in the folder")
    predict_parser = commands.add_parser("predict", help="learn from an evaluation which path answers which requests")
    predict_parser.set_defaults(command=_predict)
    predict_parser.add_argument("--data", type=Path, metavar="FILE", help="the data set that was evaluated")
    predict_parser.add_argument("--answers", type=Path, metavar="FILE", help="of the evaluation")
    predict_parser.add_argument("--scores", type=Path, metavar="FILE", help="columns: text, path, score, cost")
    predict_parser.add_argument("--live", action="store_true", help="learn from the ratings in the request log too")
    predict_parser.add_argument("--usd-per-wrong-answer", type=float, metavar="USD")
    predict_parser.add_argument("--quality", type=float, help="to reach at the least cost")
    reconcile_parser = commands.add_parser("reconcile", help="compare a provider's export with the receipts")
    reconcile_parser.set_defaults(command=_reconcile)
    add_arguments(reconcile_parser)
    replay_parser = commands.add_parser("replay", help="decide recorded requests again with this configuration")
    replay_parser.set_defaults(command=_replay)
    replay_parser.add_argument("--examples", type=int, default=10, metavar="N")
    replay_parser.add_argument(
        "--fail-if-changed", type=float, metavar="FRACTION", help="exit with 1 if a larger fraction changes"
    )
    suggest_parser = commands.add_parser("suggest", help="list what would improve the classifier")
    suggest_parser.set_defaults(command=_suggest)
    suggest_parser.add_argument("--write", type=Path, metavar="FILE", help="write the proposed examples to this file")
    wrappers_parser = commands.add_parser("wrappers", help="propose what the classifier should not read")
    wrappers_parser.set_defaults(command=_wrappers)
    wrappers_parser.add_argument("--write", type=Path, metavar="FILE", help="write the entries to this YAML file")
    data_parser = commands.add_parser("data", help="build the next version of a task's data set")
    data_parser.set_defaults(command=_data)
    data_parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the versions")
    data_parser.add_argument(
        "--teacher-answers", type=Path, metavar="FILE", help='lines of {"text", "answer"} from the teacher path'
    )
    render_parser = commands.add_parser("render", help="render training rows as prompts of a path")
    render_parser.set_defaults(command=_render)
    render_parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    render_parser.add_argument("--eval-data", type=Path, metavar="FILE")
    render_parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    render_parser.add_argument("--seed", type=int, default=7)
    overview_parser = commands.add_parser("overview", help="sum up each task's paths from exported records")
    overview_parser.set_defaults(command=_overview)
    overview_parser.add_argument("--since", default="14d", metavar="AGE", help="of whole days in UTC")
    overview_parser.add_argument("--from", dest="records", required=True, metavar="FOLDER|URL")
    audit_parser = commands.add_parser("audit", help="list administrative changes in exported records")
    audit_parser.set_defaults(command=_audit)
    audit_parser.add_argument("--since", default="7d", metavar="AGE")
    audit_parser.add_argument("--from", dest="records", required=True, metavar="FOLDER|URL")
    audit_parser.add_argument("--kind", action="append", default=[])
    audit_parser.add_argument("--limit", type=int, default=100)
    plan_parser = commands.add_parser("plan", help="print the flywheel configuration of a task")
    plan_parser.set_defaults(command=_plan)
    for subparser in (
        init_parser, import_parser, fit_parser, predict_parser, replay_parser, suggest_parser, data_parser,
        render_parser, plan_parser, wrappers_parser, prices_parser, reconcile_parser,
    ):  # fmt: skip
        subparser.add_argument("folder", type=Path, help="a configuration folder")
    render_parser.add_argument("path", help="one of its paths")
    for subparser in (data_parser, plan_parser):
        subparser.add_argument("task", help="one of its tasks")
    predict_parser.add_argument("task", nargs="+", help="one of its tasks, or several; unknown: requests of no task")
    predict_parser.add_argument("--since", default="14d", metavar="AGE", help="of the ratings")
    for subparser in (replay_parser, suggest_parser, wrappers_parser):
        subparser.add_argument("--since", default="24h", metavar="AGE", help="30m, 24h, 7d")
    for subparser in (predict_parser, replay_parser, suggest_parser, wrappers_parser, data_parser, reconcile_parser):
        subparser.add_argument("--redis", metavar="URL", help="default: POINTSMAN_GATEWAY_REDIS_URL")
        if subparser is not data_parser:
            subparser.add_argument("--from", dest="records", metavar="FOLDER|URL", help="exported records, not Redis")
    return parser


def _load(folder: Path) -> Config:
    config = load_config(folder)
    bootstrap.check_config(config)
    return config


async def _init(options: argparse.Namespace, settings: Settings) -> Report:
    stated = dict(re.findall(r"^(.+?)(?:=(\d+))?$", name)[0] for name in options.model)
    windows = {name: int(tokens) for name, tokens in stated.items() if tokens}
    prices = token_prices(options.usd_per_million_tokens) if options.usd_per_million_tokens else None
    answers = Answers(options.engine, tuple(stated), options.key_env, windows, options.base_model, prices)
    text = configuration(answers, read_labelled(options.examples), str(options.folder))
    if options.dry_run:
        return Report({}, ())
    write_checked(text, options.folder)
    config = load_config(options.folder)
    found = check_examples(config, EmbeddingModels.load(settings.embedding_model, config.encoder), ProgressLines())
    return starter_report(config, found, options.key_env)


async def _import(options: argparse.Namespace, settings: Settings) -> Report:
    return import_litellm(options.config, options.folder)


async def _prices(options: argparse.Namespace, settings: Settings) -> Report:
    order = ImportOrder(options.folder, options.source, tuple(options.model), options.starting, options.write)
    return import_prices(order)


async def _fit(options: argparse.Namespace, settings: Settings) -> Report:
    config = _load(options.folder)
    return fit(config, EmbeddingModels.load(settings.embedding_model, config.encoder), options.out, ProgressLines())


async def _predict(options: argparse.Namespace, settings: Settings) -> Report:
    config = _load(options.folder)
    order = PredictOrder(
        tasks=tuple(options.task),
        data=options.data,
        answers=options.answers,
        scores=options.scores,
        is_live=options.live,
        since=options.since,
        source=_source(options, settings),
        target=Target(options.usd_per_wrong_answer, options.quality),
    )
    return await learn(order, config, EmbeddingModels.load(settings.embedding_model, config.encoder), ProgressLines())


async def _replay(options: argparse.Namespace, settings: Settings) -> Report:
    seconds, config = parse_age(options.since), _load(options.folder)
    async with _source(options, settings).open() as log:
        evidence = await read_evidence(log, config.tasks.request_log.lookback_days)
        models = EmbeddingModels.load(settings.embedding_model, config.encoder)
        fitted = fit_model(config, models, ProgressLines()) if config.tasks.tasks else None
        learned = to_loaded(fitted, models)
        context = build_context(config, learned, evidence)
        diff = await replay(context, log, seconds, options.examples, ProgressLines())
    return replay_report(diff, config.revision, options.since, options.examples, options.fail_if_changed)


async def _reconcile(options: argparse.Namespace, settings: Settings) -> Report:
    order = read_order(options)
    async with _source(options, settings).open() as log:
        return await reconcile(order, _load(options.folder), log)


async def _overview(options: argparse.Namespace, settings: Settings) -> Report:
    seconds = parse_age(options.since)
    async with LogSource(records=options.records).open_records() as log:
        from pointsman_lab.overview import overview  # it needs DuckDB, which has been found

        return overview(log, seconds, ProgressLines())


async def _audit(options: argparse.Namespace, settings: Settings) -> Report:
    seconds = parse_age(options.since)
    try:
        from pointsman_lab.parquet.audit import read_audit
    except ImportError as error:  # the other source of changes needs no DuckDB
        raise ConfigError(f"{error}: install pointsman-lab[parquet]") from error
    return read_audit(options.records, seconds, options.kind, options.limit)


def _source(options: argparse.Namespace, settings: Settings) -> LogSource:
    return LogSource(options.redis or settings.redis_url, options.records or "")


async def _suggest(options: argparse.Namespace, settings: Settings) -> Report:
    seconds, config = parse_age(options.since), _load(options.folder)
    models, progress = EmbeddingModels.load(settings.embedding_model, config.encoder), ProgressLines()
    source = _source(options, settings)
    in_examples = check_examples(config, models, progress)
    if not source.is_given:
        return suggest_report(in_examples, None, options.since, "")
    async with source.open() as log:
        in_log = await check_log(config, models, log, seconds, progress)
    if options.write:
        write_proposals(in_log.proposals, options.write)
    return suggest_report(in_examples, in_log, options.since, str(options.write or ""))


async def _wrappers(options: argparse.Namespace, settings: Settings) -> Report:
    seconds, config = parse_age(options.since), _load(options.folder)
    async with _source(options, settings).open() as log:
        found = await find_in_log(config, log, seconds, ProgressLines())
    if options.write:
        write_entries(found.wrappers, options.write)
    return wrappers_report(found, options.since, str(options.write or ""))


async def _data(options: argparse.Namespace, settings: Settings) -> Report:
    config, url = _load(options.folder), options.redis or settings.redis_url
    order = BuildOrder(options.task, options.out, options.teacher_answers)
    if not url:
        return data_report(await build(config, None, order))
    async with open_redis_log(url) as log:
        return data_report(await build(config, log, order))


async def _render(options: argparse.Namespace, settings: Settings) -> Report:
    config = _load(options.folder)
    models = EmbeddingModels.load(settings.embedding_model, config.encoder)
    order = RenderOrder(options.path, options.data, options.eval_data, options.out, options.seed)
    tls = client_tls(settings.client_tls_ca, settings.client_tls_certificate, settings.client_tls_key)
    async with open_channel(settings.retriever, tls, token=open_token(settings.service_token_file)) as channel:
        passages = ChosenPassages(RetrieverClient(channel, lambda: models.encoder.fingerprint), order.seed)
        renderer = PathRenderer(config, order.path, passages, QueryEmbedding(models))
        return await render(order, renderer, passages, ProgressLines())


async def _plan(options: argparse.Namespace, settings: Settings) -> Report:
    return plan_report(_load(options.folder), options.task)


if __name__ == "__main__":
    sys.exit(main())
