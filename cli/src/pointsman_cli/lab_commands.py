"""Commands that run an analysis of the lab: `classifier`, `datasets build`, `predict` and `replay`.

The lab is the package `pointsman_lab`, which runs as a child process and analyses a configuration and its request log;
the commands print its report. `Rendering` lets the lab render training rows for `train` and `retrain`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from pointsman_cli.data_dir import DataDir, read_run, token_file_for
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.example import EXAMPLE_FILE, load_example
from pointsman_cli.lab_process import LabJob, lab_facts, run_lab
from pointsman_cli.optional import optional
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption, RecordsOption, RedisOption, log_arguments

TASKS_FILE = "tasks.yaml"


FolderArgument = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A configuration folder, or an example folder with a pointsman.yaml.")
]
SinceOption = Annotated[
    str, typer.Option(metavar="AGE", help='How far back to read the request log, such as "30m", "24h" or "7d".')
]

DATASETS_FOLDER = "datasets"  # in the data directory

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task with a flywheel section in tasks.yaml.")]
ConfigOption = Annotated[
    Path | None,
    optional("CONFIG", "A configuration or example folder; default: the one of the running `pointsman up`."),
]
DatasetsOption = Annotated[
    Path | None, optional("DIR", f"Folder of the data sets; default: {DATASETS_FOLDER} in the data directory.")
]

TLS_VARIABLES = ("CLIENT_TLS_CA", "CLIENT_TLS_CERTIFICATE", "CLIENT_TLS_KEY")


def config_folder(folder: Path) -> Path:
    """Returns the absolute path of the configuration folder that the pointsman.yaml in `folder` names.

    If there is no pointsman.yaml, but a tasks.yaml, returns `folder` itself. Raises UsageError if `folder` has neither,
    or the pointsman.yaml is invalid.
    """
    if (folder / EXAMPLE_FILE).is_file():
        return load_example(folder).config
    if (folder / TASKS_FILE).is_file():
        return folder.absolute()
    raise UsageError(f"{folder} is neither an example (no {EXAMPLE_FILE}) nor a configuration (no {TASKS_FILE})")


def classifier_app() -> typer.Typer:
    app = typer.Typer(help="Fit the task classifier and check its training examples.", no_args_is_help=True)
    app.command()(fit)
    app.command()(lint)
    app.command()(wrappers)
    return app


def fit(
    folder: FolderArgument,
    out: Annotated[
        Path | None,
        optional("FILE", "The file to write; default: classifier.artifact in the configuration folder."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Fit the task classifier to the tasks' examples and write it to a file, which spares the gateway to fit it.

    Takes seconds on a CPU and is deterministic. Set POINTSMAN_GATEWAY_CLASSIFIER to the file; the gateway refuses it if
    the examples have changed since.
    """
    arguments = ["fit", str(config_folder(folder))]
    if out is not None:
        arguments += ["--out", str(out.absolute())]
    run_interruptibly(run_lab(LabJob(arguments, DataDir.at(data_dir), as_json)))


def lint(
    folder: FolderArgument,
    since: SinceOption = "24h",
    redis: RedisOption = "",
    records: RecordsOption = "",
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the proposed examples to this JSON Lines file for review."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """List problems of the training examples, and propose new examples; changes no configuration.

    Checks the examples for tasks that are confused with each other and for near-duplicates across tasks. With a request
    log, it also reports groups of requests that the classifier could assign to no task and that look like a new one,
    and requests whose task was corrected.
    """
    at = DataDir.at(data_dir)
    arguments = ["suggest", str(config_folder(folder)), "--since", since]
    arguments += log_arguments(redis, records, at)
    if write is not None:
        arguments += ["--write", str(write.absolute())]
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))


def wrappers(
    folder: FolderArgument,
    since: SinceOption = "24h",
    redis: RedisOption = "",
    records: RecordsOption = "",
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the entries for tasks.yaml to this file for review.")
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Find text that clients write around their users' words, and propose entries of classifier.wrappers.

    Compares the messages of the request log, without the text that the classifier ignores already. Changes no
    configuration.
    """
    at = DataDir.at(data_dir)
    arguments = ["wrappers", str(config_folder(folder)), "--since", since]
    arguments += log_arguments(redis, records, at)
    if write is not None:
        arguments += ["--write", str(write.absolute())]
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))


def config_folder_of(named: Path | None, data_dir: DataDir) -> Path:
    """Returns the configuration folder of `named`; if `named` is None, that of the running `pointsman up`.

    `named` may be a configuration folder, or an example folder with a pointsman.yaml. Raises UsageError if it has no
    configuration, if `named` is None and nothing runs, or if run.json cannot be opened.
    """
    running = read_run(data_dir.run_file)
    if named is None and running is None:
        raise UsageError("nothing runs here; name the configuration folder with --config")
    return config_folder(named or Path(running.example))  # type: ignore[union-attr]  # one of the two is set


def datasets_folder(named: Path | None, data_dir: DataDir) -> Path:
    return (named or data_dir.folder / DATASETS_FOLDER).absolute()


def datasets_app() -> typer.Typer:
    app = typer.Typer(
        help="Build training data from stored answers and feedback.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command()(build)
    return app


def build(
    task: TaskArgument,
    config: ConfigOption = None,
    out: DatasetsOption = None,
    redis: RedisOption = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Build the next version of a task's training data from the request log and the task's examples.

    A version has training rows, held-out rows, preference pairs and a manifest. If a prompt has several answers, the
    row has an expert's correction, or else an answer that was rated well, or else an answer of the task's teacher path
    that passed validation. Stored answers of tenants that do not consent any more are deleted.
    """
    at = DataDir.at(data_dir)
    arguments = ["data", str(config_folder_of(config, at)), task, "--out", str(datasets_folder(out, at))]
    arguments += log_arguments(redis, "", at)
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))


def predict(
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...", help="A task of the configuration, or several; `unknown`: requests that fit no task."
        ),
    ],
    data: Annotated[Path | None, optional("FILE", "The data set that was evaluated.")] = None,
    answers: Annotated[Path | None, optional("FILE", "The answers that `pointsman eval` stored.")] = None,
    scores: Annotated[
        Path | None,
        optional(
            "FILE",
            "Scores that were measured elsewhere: CSV, JSONL or Parquet with the columns text, path, score, cost.",
        ),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Learn from the gateway's ratings and shadow requests too, or from them alone."),
    ] = False,
    since: Annotated[str, typer.Option(metavar="AGE", help="With --live: how old ratings may be.")] = "14d",
    redis: RedisOption = "",
    records: RecordsOption = "",
    usd_per_wrong_answer: Annotated[
        float | None,
        optional("USD", "Dollars that a wrong answer costs you."),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Quality to reach at the least cost; default: 95 % of the best path's.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[float | None, typer.Option(hidden=True)] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Learn which path answers which requests well, and print the policy `predicted` of one task or several.

    A table shows the policy's quality, cost and gain for each price of a wrong answer. Exits with code 1 if, on rows
    that were not used for learning, the policy is not better than the best single path.
    """
    if tolerance is not None:
        raise UsageError("--tolerance is replaced by --usd-per-wrong-answer (or --quality)")
    if usd_per_wrong_answer is not None and (quality is not None or not 0 < usd_per_wrong_answer < inf):
        raise UsageError("--usd-per-wrong-answer must be above 0 and finite, and excludes --quality")
    if (data is None) != (answers is None) or (data and scores) or not (data or scores or live):
        raise UsageError("name an evaluation by both --data and --answers, or --scores; add --live, or name it alone")
    if records and not live:
        raise UsageError("--from is read with --live only: add it")
    at = DataDir.at(data_dir)
    arguments = ["predict", str(config_folder_of(config, at)), *tasks, "--since", since]
    for name, number in (("--usd-per-wrong-answer", usd_per_wrong_answer), ("--quality", quality)):
        if number is not None:
            arguments += [name, str(number)]
    if data and answers:
        arguments += ["--data", str(data), "--answers", str(answers)]
    if scores:
        arguments += ["--scores", str(scores)]
    if live:
        arguments.append("--live")
        arguments += log_arguments(redis, records, at)
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))


@dataclass(frozen=True, slots=True)
class Rendering:
    """Settings to turn training rows into the prompts of the path (way to answer) that will use the trained adapter."""

    config: Path
    """The folder of the gateway's configuration that defines the path."""
    path: str
    """The name of the path that will use the trained adapter."""
    retriever: str
    """The retriever's address, "HOST:PORT"; empty: the default address in the gateway's settings."""
    out: Path
    """The folder to which the lab writes the rendered rows."""
    seed: int

    async def render(self, data_dir: DataDir, data: Path, held_out: Path | None) -> tuple[Path, Path | None, str]:
        """Turns the rows of the files `data` and `held_out` into prompts, and writes them to files in the folder `out`.

        Returns the file of training rows, the file of held-out rows (None if there are none), and a text with the
        numbers of rows. Raises CommandError if the command of `pointsman_lab` that renders them fails.
        """
        arguments = ["render", str(self.config), self.path, "--data", str(data), "--out", str(self.out)]
        arguments += ["--seed", str(self.seed)]
        if held_out:
            arguments += ["--eval-data", str(held_out)]
        facts = await lab_facts(LabJob(arguments, data_dir, as_json=True, environment=self._environment()))
        counts = ", ".join(f"{count} {what}" for what, count in facts["counts"].items() if count)
        summary = f"rendered as prompts of {self.path}: {facts['rows']} rows" + (f" ({counts})" if counts else "")
        return Path(facts["training"]), Path(facts["evaluation"]) if facts["evaluation"] else None, summary

    def _environment(self) -> Mapping[str, str]:
        """Returns the environment variables by which the lab reaches the retriever as a gateway does."""
        tls = {name: os.environ.get(f"POINTSMAN_{name}", "") for name in TLS_VARIABLES}
        given = {**tls, "RETRIEVER": self.retriever, "SERVICE_TOKEN_FILE": str(token_file_for(self.retriever) or "")}
        return {f"POINTSMAN_GATEWAY_{name}": value for name, value in given.items() if value}


def replay(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="NEW_CONFIG", help="A configuration folder, or an example folder with a pointsman.yaml."
        ),
    ],
    since: SinceOption = "24h",
    redis: RedisOption = "",
    records: RecordsOption = "",
    examples: Annotated[int, typer.Option(min=0, max=100, help="Number of changed requests to show.")] = 10,
    fail_if_changed: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Exit with code 1 if a larger share of the requests changes."),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show which logged requests a new configuration would route differently, and how their cost would change.

    Uses the gateway's own classifier and router. A request whose text was not stored keeps its recorded task. Sends
    nothing to an engine and writes nothing.
    """
    at = DataDir.at(data_dir)
    source = log_arguments(redis, records, at)
    if not source:
        raise UsageError(
            "there is no request log to replay: nothing runs here; name the Redis with --redis, or a file with --from"
        )
    arguments = ["replay", str(config_folder(folder)), "--since", since, *source]
    arguments += ["--examples", str(examples)]
    if fail_if_changed is not None:
        arguments += ["--fail-if-changed", str(fail_if_changed)]
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))
