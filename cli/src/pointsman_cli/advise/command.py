"""`pointsman advise`: checks the options, reads the evaluation or the gateway's figures, and prints the advice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import typer
from pointsman_servicekit.errors import NotFound
from pointsman_servicekit.prices import PricedModel, named_price, prices_as_of
from rich.console import Group
from rich.text import Text

from pointsman_cli.advise.costs import (
    CostTerms,
    check_selection,
    read_training_costs,
    unfinished_trainings,
)
from pointsman_cli.advise.live import fetch_tasks, hardware_cost, hardware_lines, live_advice, live_lines
from pointsman_cli.advise.options import (
    AdapterFoldersOption,
    AdapterUsdPerMonthOption,
    AgainstOption,
    AmortizationMonthsOption,
    CertificateOption,
    ConfigOption,
    DataOption,
    DifferenceOption,
    EvaluationArgument,
    LiveOption,
    MarkdownOption,
    MaxP95SecondsOption,
    MaxPriceChangeOption,
    MinScoreOption,
    MinValidOption,
    PowerOption,
    RecordsOption,
    RegretOption,
    RequestsPerMonthOption,
    RetrainDaysOption,
    SampleOption,
    SeedOption,
    SigningKeyOption,
    SinceOption,
    TrainerUsdPerHourOption,
    TrainingCostsOption,
    TrainingFilesOption,
    TrustedKeyOption,
    ValidDaysOption,
    VerifyOption,
    WrongAnswerUsdOption,
)
from pointsman_cli.advise.recommendation import Requirements, advise
from pointsman_cli.advise.regret import fetch_metrics, fetch_regrets, regret_table
from pointsman_cli.advise.tables import print_advice
from pointsman_cli.certificate.adapter_files import parse_folders, read_adapters
from pointsman_cli.certificate.command import issue_certificate, verify_certificate
from pointsman_cli.certificate.issue import Validity, make_statement
from pointsman_cli.certificate.sample import Sampling
from pointsman_cli.certificate.task_verdicts import VerdictTerms
from pointsman_cli.certificate.verification import ConfigurationSource, Verification, fetch_catalog
from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.eval.report import read_report
from pointsman_cli.lab_process import LabJob, lab_facts
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    KEY_VARIABLE,
    DataDirOption,
    JsonOption,
    KeyEnvOption,
    UrlOption,
    api_key,
    gateway_url,
    log_arguments,
    print_json,
    table_console,
)
from pointsman_cli.top.command import find_services

_DAYS_A_MONTH = 365.25 / 12
_REPORT = "a REPORT"
_CERTIFICATE, _VERIFY = "--certificate", "--verify"
_GATEWAY = ("gateway", "data_dir", "key_env")
_OPTIONS = {
    "--live": _GATEWAY,
    "--from": ("since", "data_dir"),
    "--against": ("gateway", "data_dir"),
    "--regret": ("gateway", "data_dir"),
    _CERTIFICATE: (*_GATEWAY, "adapters", "difference", "power", "valid_days", "max_price_change", "signing_key"),
    _VERIFY: (*_GATEWAY, "adapters", "data", "config", "sample", "seed", "trusted_key", "markdown"),
}
"""The parameters of `advise_on` that each source of figures uses.

Parameters in no entry are for a report of `pointsman eval`, with or without a certificate.
"""
_ALWAYS = ("evaluation", "live", "records", "against", "regret", "certificate", "verify_file", "as_json")


def advise_on(
    context: typer.Context,
    evaluation: EvaluationArgument = None,
    live: LiveOption = False,
    records: RecordsOption = "",
    since: SinceOption = "14d",
    against: AgainstOption = "",
    regret: RegretOption = False,
    gateway: UrlOption = "",
    key_env: KeyEnvOption = KEY_VARIABLE,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    training_files: TrainingFilesOption = None,
    trainer_usd_per_hour: TrainerUsdPerHourOption = None,
    training_costs: TrainingCostsOption = None,
    requests_per_month: RequestsPerMonthOption = None,
    amortization_months: AmortizationMonthsOption = 12.0,
    retrain_days: RetrainDaysOption = None,
    adapter_usd_per_month: AdapterUsdPerMonthOption = 0.0,
    wrong_answer_usd: WrongAnswerUsdOption = 0.0,
    min_score: MinScoreOption = None,
    min_valid: MinValidOption = None,
    max_p95_seconds: MaxP95SecondsOption = None,
    certificate: CertificateOption = None,
    difference: DifferenceOption = None,
    power: PowerOption = 0.8,
    valid_days: ValidDaysOption = 90.0,
    max_price_change: MaxPriceChangeOption = 0.2,
    signing_key: SigningKeyOption = None,
    verify_file: VerifyOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    sample: SampleOption = 20,
    seed: SeedOption = 1,
    trusted_key: TrustedKeyOption = None,
    markdown: MarkdownOption = None,
    adapters: AdapterFoldersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute from which volume an adapter pays off against each path without one, and recommend a path for each task.

    A path is one way to answer: a model with its prompt and, perhaps, an adapter or retrieval. Uses the figures of an
    evaluation and the cost of training; sends no requests. With --live it uses the ratings of answers that a gateway
    has, with --from those in exported records, and says how many further ratings would decide each comparison. With
    --against it compares the cost of tokens on your hardware with a provider's list price.

    With --regret it compares the cost, latency and quality of shadow requests with the paths that were chosen, in one
    gateway since its start, shown as chosen : shadow. Regret is what the shadow path would have saved (total dollars)
    and by how much its answers were better (mean quality of the scored pairs). A judge's line says how many of its
    scores agree with people's ratings of the same answers.

    With --certificate the verdict is also written to a file, with everything on which it depends, if the evaluated rows
    are enough to decide; otherwise the exit status is 3. --verify checks such a file; the exit status is 0 if the
    certificate is valid, 3 if it is weakened, 4 if it is invalid.
    """
    given_sources = {
        _REPORT: evaluation is not None,
        "--live": live,
        "--from": bool(records),
        "--against": bool(against),
        "--regret": regret,
        _VERIFY: verify_file is not None,
    }
    _check_options(context, _source(given_sources, certificate))
    folders = parse_folders(adapters or ())
    if verify_file:
        source = ConfigurationSource("" if config else gateway_url(gateway, data_dir), api_key(key_env), config)
        given = Verification(data, Sampling(sample, seed), trusted_key, folders)
        verify_certificate(verify_file, source, given, markdown, as_json)
        return
    if regret:
        _show_regrets(find_services(gateway, "", "", data_dir).gateway, as_json)
        return
    if against:
        price = _named_price(against)
        _compare_hardware(find_services(gateway, "", "", data_dir).gateway, against, price, as_json)
        return
    if records:
        arguments = ["overview", "--since", since, *log_arguments("", records, DataDir.at(data_dir))]
        job = LabJob(arguments, DataDir.at(data_dir), as_json, needs_model=False)
        _advise_by_ratings(run_interruptibly(lab_facts(job))["tasks"], as_json)
        return
    if evaluation is None:
        _advise_by_ratings(fetch_tasks(gateway_url(gateway, data_dir), api_key(key_env)), as_json)
        return
    report = read_report(evaluation)
    check_selection(training_files or (), report.sha256)
    terms = CostTerms(
        training=read_training_costs(training_files or (), trainer_usd_per_hour, training_costs or ()),
        monthly=requests_per_month,
        months=amortization_months,
        trainings_a_month=_DAYS_A_MONTH / retrain_days if retrain_days else 0.0,
        adapter_month=adapter_usd_per_month,
        wrong_answer=wrong_answer_usd,
        unfinished=unfinished_trainings(training_files or ()),
    )
    needs = Requirements(min_score, min_valid, max_p95_seconds)
    if certificate:
        verdict_terms = VerdictTerms(needs, terms, difference, power)
        statement = make_statement(
            report,
            run_interruptibly(fetch_catalog(ConfigurationSource(gateway_url(gateway, data_dir), api_key(key_env)))),
            verdict_terms,
            Validity(valid_days, max_price_change),
            adapters=read_adapters(training_files or (), folders),
            issued=datetime.now(UTC),
        )
        issue_certificate(statement, certificate, signing_key, as_json)
        return
    advice = advise(report, needs, terms)
    if as_json:
        print_json([asdict(task) for task in advice])
    else:
        print_advice(table_console(), advice)


def _source(given: Mapping[str, bool], certificate: Path | None) -> str:
    """Returns the source of the figures: _REPORT, or the option that names another source, such as "--live".

    With `certificate`, returns _CERTIFICATE instead of _REPORT. `given` says for each source whether the command line
    names it. Raises UsageError unless it names exactly one, and if a certificate is asked of another source than a
    report.
    """
    chosen = [source for source, is_given in given.items() if is_given]
    if len(chosen) != 1:
        raise UsageError(
            "give either a REPORT of `pointsman eval --json`, or --live, or --from FOLDER, or --against MODEL, or "
            "--regret, or --verify FILE"
        )
    if certificate and chosen[0] != _REPORT:
        raise UsageError(f"{_CERTIFICATE} is made of a REPORT, not of {chosen[0]}")
    return _CERTIFICATE if certificate else chosen[0]


def _check_options(context: typer.Context, source: str) -> None:
    """Raises UsageError if the command line has an option that `source` does not use, or an infinite number."""
    for parameter in context.command.params:
        name = str(parameter.name)
        origin = context.get_parameter_source(name)
        if name in _ALWAYS or origin is None or origin.name != "COMMANDLINE":
            continue
        users = [each for each, names in _OPTIONS.items() if name in names] or [_REPORT]
        if source not in users and not (source == _CERTIFICATE and users == [_REPORT]):
            raise UsageError(f"{parameter.opts[0]} is for {' or '.join(users)}, not for {source}")
        if isinstance(context.params[name], float) and not isfinite(context.params[name]):
            raise UsageError(f"{parameter.opts[0]} is {context.params[name]}; it must be finite")


def _show_regrets(url: str, as_json: bool) -> None:
    regrets = fetch_regrets(url)
    if as_json:
        typer.echo(json.dumps(asdict(regrets)))
    else:
        table_console().print(regret_table(regrets))


def _compare_hardware(url: str, against: str, price: PricedModel, as_json: bool) -> None:
    cost = hardware_cost(fetch_metrics(url), against, price)
    if as_json:
        print_json(asdict(cost))
    else:
        table_console().print(Group(*map(Text, hardware_lines(cost, str(prices_as_of())))))


def _advise_by_ratings(tasks: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    found = [live_advice(task) for task in tasks]
    if as_json:
        print_json([asdict(task) for task in found])
    else:
        table_console().print(Group(*map(live_lines, found)), crop=False)


def _named_price(model: str) -> PricedModel:
    """Returns the list price of a provider's model; raises UsageError if the model is unknown."""
    try:
        return named_price(model)
    except NotFound as error:
        raise UsageError(f"--against: {error.message}") from error
