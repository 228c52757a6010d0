"""`pointsman advise --regret` computes its table from the shadow metrics of a real gateway."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pointsman_cli.advise.regret import Regrets, read_regrets, regret_table
from pointsman_cli.top.metrics import parse_metrics
from pointsman_gateway.request_log.evidence import EvidenceKey
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.shadow.pair import Pair, Side, regret_of
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from rich.console import Console

Cli = Callable[..., Any]


def side(path: str, usd: float, seconds: float) -> Side:
    return Side(EvidenceKey("triage", path, "f", ""), usd, seconds, "", None)


DEAR, CHEAP = side("few_shot", 0.002, 2.0), side("adapter", 0.001, 1.0)


def seen(registry: CollectorRegistry) -> Regrets:
    return read_regrets(parse_metrics(generate_latest(registry).decode(), 0.0, ("pointsman_",)))


def test_means_are_per_pair_and_regret_covers_all_requests() -> None:
    registry = CollectorRegistry()
    metrics = ShadowMetrics(registry)
    pair = Pair("d", "20260101", "triage", DEAR, CHEAP)
    for chosen, other in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0)):
        metrics.count_request("triage", "adapter", "ok", CHEAP.cost_usd)
        metrics.count_pair(pair)
        metrics.count_scores(pair, chosen, other, regret_of(pair, chosen, other))
    metrics.count_request("triage", "adapter", "crowded", 0.0005)
    found = seen(registry)
    [one] = found.comparisons
    assert (one.task, one.chosen, one.shadow, one.pairs, one.scored) == ("triage", "few_shot", "adapter", 3, 3)
    assert (one.of_chosen.usd, one.of_shadow.usd) == (pytest.approx(0.002), pytest.approx(0.001))
    assert one.of_chosen.quality == one.of_shadow.quality == pytest.approx(2 / 3)
    assert one.regret_usd == pytest.approx(0.002)  # not from the pair whose shadow was worse
    assert one.regret_quality == pytest.approx(1.0)
    assert found.outcomes == {"ok": 3, "crowded": 1}
    assert found.spent_usd == pytest.approx(0.0035)


def test_a_pair_without_scores_has_costs_but_no_quality() -> None:
    registry = CollectorRegistry()
    ShadowMetrics(registry).count_pair(Pair("d", "20260101", "triage", DEAR, CHEAP))
    [one] = seen(registry).comparisons
    assert one.of_chosen.quality is None
    assert one.regret_usd == 0.0


def test_the_table_shows_both_sides_and_marks_missing_ones(capsys: pytest.CaptureFixture[str]) -> None:
    registry = CollectorRegistry()
    console = Console(width=140)
    metrics = ShadowMetrics(registry)
    metrics.count_request("triage", "adapter", "spent")
    console.print(regret_table(seen(registry)))
    assert "no shadow request has been answered" in capsys.readouterr().out
    metrics.count_pair(Pair("d", "20260101", "triage", DEAR, CHEAP))
    console.print(regret_table(seen(registry)))
    assert "2.0000 : 1.0000" in capsys.readouterr().out


def test_a_judge_is_compared_with_people(capsys: pytest.CaptureFixture[str]) -> None:
    registry = CollectorRegistry()
    metrics = ShadowMetrics(registry)
    metrics.count_pair(Pair("d", "20260101", "triage", DEAR, CHEAP))
    for outcome in ("shadow", "shadow", "unparsable"):
        metrics.count_verdict("triage", outcome)
    metrics.count_judge_cost("triage", 0.25)
    for judge, human in ((0.9, 1.0), (0.1, 0.0), (0.9, 0.2)):
        metrics.count_agreement("triage", judge, human)
    [judged] = seen(registry).judges
    assert (judged.verdicts, judged.spent_usd) == ({"shadow": 2, "unparsable": 1}, 0.25)
    assert (judged.agreed, judged.rated) == (2, 3)
    assert judged.agreement_at_any_time[0] < judged.agreement[0] < 2 / 3 < judged.agreement[1]
    Console(width=200).print(regret_table(seen(registry)))
    shown = capsys.readouterr().out
    assert "agrees with people: 2 of 3 answers (21% to 94% now; 2% to 100% if you look at any time)" in shown


def test_the_command_reads_a_running_gateway(cli: Cli) -> None:
    registry = CollectorRegistry()
    ShadowMetrics(registry).count_pair(Pair("d", "20260101", "triage", DEAR, CHEAP))
    server, _ = start_http_server(0, "127.0.0.1", registry)
    address = f"127.0.0.1:{server.server_port}"
    try:
        shown, in_json = (cli("advise", "--regret", "--gateway", address, *more) for more in ((), ("--json",)))
    finally:
        server.shutdown()
        server.server_close()
    assert (shown.code, in_json.code) == (0, 0), shown.err
    assert "2.0000 : 1.0000" in shown.out
    assert json.loads(in_json.out)["comparisons"][0]["of_shadow"]["usd"] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--regret", "--live"),
            "give either a REPORT of `pointsman eval --json`, or --live, or --from FOLDER, or --against MODEL, or",
        ),
        (("report.json", "--regret"), "give either a REPORT"),
        (("--regret", "--min-score", "0.5"), "--min-score is for a REPORT, not for --regret"),
        (("--regret", "--training", "training.json"), "--training is for a REPORT, not for --regret"),
        (("--regret", "--amortization-months", "12"), "--amortization-months is for a REPORT, not for --regret"),
        (("--regret", "--key-env", "KEY"), "--key-env is for --live or --certificate or --verify, not for --regret"),
        (("--live", "--min-score", "0.5"), "--min-score is for a REPORT, not for --live"),
        (
            ("report.json", "--gateway", "127.0.0.1:9"),
            "--gateway is for --live or --against or --regret or --certificate or --verify, not for a REPORT",
        ),
    ],
)
def test_options_of_other_sources_are_rejected(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli("advise", *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_a_gateway_that_does_not_answer_is_named(cli: Cli) -> None:
    outcome = cli("advise", "--regret", "--gateway", "http://127.0.0.1:9")
    assert outcome.code == 1
    assert "no gateway answers at http://127.0.0.1:9/metrics; start one with" in outcome.err
