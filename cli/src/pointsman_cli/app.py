"""Registers all commands. To add one, write a function in a module of its own and register it in `build_app`."""

from importlib.metadata import version
from typing import Annotated

import typer

from pointsman_cli import backup as backup
from pointsman_cli import jobs as jobs
from pointsman_cli import prices as prices
from pointsman_cli.adapters import command as adapters
from pointsman_cli.advise.command import advise_on
from pointsman_cli.ask import ask, feedback, route
from pointsman_cli.audit import audit
from pointsman_cli.conformance import command as conformance
from pointsman_cli.doctor.command import doctor
from pointsman_cli.eval.command import evaluate
from pointsman_cli.ingest import ingest
from pointsman_cli.init import import_app, init
from pointsman_cli.keys import command as keys
from pointsman_cli.lab_commands import classifier_app, datasets_app, predict, replay
from pointsman_cli.reconcile import reconcile
from pointsman_cli.retrain.command import retrain
from pointsman_cli.retriever import command as retriever
from pointsman_cli.search import search
from pointsman_cli.top.command import top
from pointsman_cli.train.command import train
from pointsman_cli.up.command import up


def build_app() -> typer.Typer:
    app = typer.Typer(
        name="pointsman",
        help="Run and operate Pointsman, which routes each LLM request to prompting, retrieval or an adapter.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for command in (
        init, up, top, ask, route, feedback, ingest, search, train, retrain, predict, replay, reconcile, doctor,
        audit,
    ):  # fmt: skip
        app.command()(command)
    app.command("eval")(evaluate)
    app.command("advise")(advise_on)
    app.add_typer(classifier_app(), name="classifier")
    app.add_typer(adapters.build_app(), name="adapters")
    app.add_typer(jobs.build_app(), name="jobs")
    app.add_typer(retriever.build_app(), name="retriever")
    app.add_typer(keys.build_app(), name="keys")
    app.add_typer(datasets_app(), name="datasets")
    app.add_typer(import_app(), name="import")
    app.add_typer(prices.build_app(), name="prices")
    app.add_typer(backup.build_app(), name="backup")
    app.add_typer(conformance.build_app(), name="conformance")
    return app


def _root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if show_version:
        typer.echo(version("pointsman"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
