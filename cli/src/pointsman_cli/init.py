"""`pointsman init` and `pointsman import`: make a configuration from answers, an example or LiteLLM's configuration.

Also finds the files that the wheel installs.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pointsman_cli.data_dir import DataDir
from pointsman_cli.engine_environment import BUILT_IN, BUILT_IN_CONTEXT, MAX_CONTEXT, locate_base_model
from pointsman_cli.errors import CommandError, UsageError, run_interruptibly
from pointsman_cli.lab_process import LabJob, lab_facts, run_lab
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption
from pointsman_cli.up.own_engine import base_url, chat_models, list_models

_INSTALLED = Path(__file__).parent / "files"
_CHECKOUT = Path(__file__).parents[3]
_IGNORED = shutil.ignore_patterns("__pycache__", ".pointsman", "demo*")  # it runs in a clone
_SHOWN_MODELS = 20


def installed_path(name: str) -> Path:
    """Returns the path of a folder of the Pointsman repository, such as "examples/minimal", in this installation.

    It is the copy that the wheel has installed, if that copy exists, otherwise the folder of the checkout. If neither
    exists, it is the path that the copy would have.
    """
    return next((path for root in (_INSTALLED, _CHECKOUT) if (path := root / name).exists()), _INSTALLED / name)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to create.")],
    engine: Annotated[
        str, typer.Option(metavar="URL|PROVIDER", help="An OpenAI-compatible URL, or a provider such as openai.")
    ] = "",
    key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The environment variable with the engine's API key.", show_default=False),
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="The engine's model that answers.")] = "",
    base_model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Instead of --engine: a model that `pointsman up` serves with vLLM, so that adapters can be trained. "
            "smollm2-135m, a folder, or a name at the Hugging Face hub.",
        ),
    ] = "",
    usd_per_million_tokens: Annotated[
        str,
        typer.Option(metavar="PROMPT,CACHED,COMPLETION", help="The model's prices, such as 0.15,0.075,0.6."),
    ] = "",
    fallback_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A second model, used if the first one fails.", show_default=False),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Labelled messages, .jsonl or .csv with `text`, `task` and, optionally, `output` and `intent`.",
            show_default=False,
        ),
    ] = None,
    example: Annotated[
        Literal["minimal", "helpdesk", "messages"] | None,
        typer.Option(
            help="Copy an example instead. minimal: one file for your own engine; helpdesk: complete, with adapters; "
            "messages: labelled messages as CSV, to begin with.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Write a commented configuration to a new folder, from an engine's address and some 30 labelled messages.

    Asks in the terminal for each value that no option gives. Cross-validates the messages, shows which tasks are
    confused with each other, and prints the command that starts the gateway.
    """
    _check_new(folder)
    if example:
        _copy_example(example, folder)
        return
    ask = _ask if sys.stdin.isatty() else _require
    at = DataDir.at(data_dir)
    prices = ["--usd-per-million-tokens", usd_per_million_tokens] if usd_per_million_tokens else []
    if base_model:
        if engine or model or key_env or fallback_model:
            raise UsageError("--base-model excludes --engine, --model, --key-env and --fallback-model")
        located = locate_base_model(base_model, Path.cwd(), at)
        served = BUILT_IN if located.is_built_in else located.hub_name or str(located.folder)
        file = _file_of_messages(examples, ask)
        window = BUILT_IN_CONTEXT if located.is_built_in else MAX_CONTEXT
        _write(folder, file, at, as_json, ["--base-model", served, "--model", f"{located.name}={window}"], prices)
        return
    engine = engine or ask(
        "--engine", "1. Engine: its URL (http://localhost:8000), or a provider (openai, mistral)", None
    )
    key_env = (
        ask("--key-env", "2. Environment variable with its API key (Enter: none)", "") if key_env is None else key_env
    )
    _check_key(key_env)
    listed = _list(engine, key_env, required=not model)
    model = model or ask("--model", f"3. Model that answers{_choice(listed)}", None)
    if fallback_model is None:
        fallback_model = ask("--fallback-model", "4. Model that answers if it fails (Enter: none)", "")
    file = _file_of_messages(examples, ask)
    models = [_stated(name, listed, engine) for name in (model, fallback_model) if name]
    named = [argument for name in models for argument in ("--model", name)]
    _write(folder, file, at, as_json, ["--engine", engine, "--key-env", key_env, *named], prices)


def _file_of_messages(examples: Path | None, ask: Callable[[str, str, str | None], str]) -> Path:
    file = examples or Path(ask("--examples", "5. File of labelled messages, .jsonl or .csv with text and task", None))
    if not file.is_file():
        raise UsageError(f"there is no file {file}; it should have one labelled message a line: text and task")
    return file


def _write(folder: Path, file: Path, at: DataDir, as_json: bool, model: Sequence[str], prices: Sequence[str]) -> None:
    """Lets the lab write the configuration to `folder`, from the labelled messages in `file`.

    `model` and `prices` are further options of the lab's command `init`.
    """
    arguments = ["init", str(folder), "--examples", str(file), *model, *prices]
    # A mistake in the messages is reported before the embedding model is downloaded.
    run_interruptibly(lab_facts(LabJob([*arguments, "--dry-run"], at, as_json, needs_model=False)))
    run_interruptibly(run_lab(LabJob(arguments, at, as_json)))
    _copy("examples/schema", folder / "schema")


def import_app() -> typer.Typer:
    app = typer.Typer(help="Translate the configuration of another gateway.", no_args_is_help=True)
    app.callback()(lambda: None)  # so that the command keeps its name although there is one
    app.command()(litellm)
    return app


def litellm(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="LiteLLM's config.yaml.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to create.")],
    as_json: JsonOption = False,
) -> None:
    """Translate LiteLLM's models, providers, fallbacks, budgets and limits, and list what has no equivalent."""
    _check_new(out)
    arguments = ["import", str(out), "--config", str(config)]
    run_interruptibly(run_lab(LabJob(arguments, DataDir.at(DEFAULT_DATA_DIR), as_json, needs_model=False)))


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder; name another one")


def _ask(option: str, question: str, default: str | None) -> str:
    answer: str = typer.prompt(question, default=default, show_default=False, err=True)
    return answer.strip()


def _require(option: str, question: str, default: str | None) -> str:
    if default is None:
        raise UsageError(f"{option} is missing, and there is no terminal to ask; to copy an example: --example minimal")
    return default


def _check_key(variable: str) -> None:
    if variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise UsageError("the API key's environment variable must be given by its name, such as OPENAI_API_KEY")
    if variable and not os.environ.get(variable):
        raise UsageError(f"the environment variable {variable} is not set")


def _list(engine: str, key_env: str, *, required: bool) -> Mapping[str, Mapping[str, Any]]:
    """Returns the models that the server at the URL `engine` lists: name -> the model's entry in `/v1/models`.

    Returns an empty mapping if `engine` is a provider's name and no URL. `key_env` names the environment variable with
    the API key. If the server cannot list its models, raises UsageError if `required`, and otherwise prints a warning
    and returns an empty mapping.
    """
    if "://" not in engine:
        return {}
    try:
        return {entry["id"]: entry for entry in list_models(base_url(engine), key_env)}
    except UsageError as error:
        if required:
            raise
        typer.echo(f"warning: the model could not be checked: {error}", err=True)
        return {}


def _choice(listed: Mapping[str, Mapping[str, Any]]) -> str:
    names = chat_models(listed)
    more = ", ..." if len(names) > _SHOWN_MODELS else ""
    return f" ({', '.join(names[:_SHOWN_MODELS])}{more})" if names else ""


def _stated(model: str, listed: Mapping[str, Mapping[str, Any]], engine: str) -> str:
    """Returns "NAME", or "NAME=TOKENS" if the engine reports the context window of the model.

    Raises UsageError if `listed` has models, but not this one.
    """
    if listed and model not in listed:
        raise UsageError(f"{engine} lists no model '{model}'; it lists: {', '.join(sorted(listed)[:_SHOWN_MODELS])}")
    length = listed.get(model, {}).get("max_model_len")
    return f"{model}={length}" if isinstance(length, int) and length > 0 else model


def _copy_example(example: str, folder: Path) -> None:
    _copy(f"examples/{example}", folder)
    if example == "messages":
        typer.echo(
            f"{folder / 'labelled.csv'} and {folder / 'test.csv'} are ready; {folder / 'README.md'} says what for"
        )
        return
    _copy("examples/schema", folder / "schema")
    for file in folder.rglob("*.yaml"):  # each names its schema for editors, which was one folder further up
        file.write_text(file.read_text("utf-8").replace("../schema/", "schema/", 1), "utf-8")
    typer.echo(f"{folder / 'pointsman.yaml'} is ready; edit it, then run: pointsman up {folder}")


def _copy(name: str, to: Path) -> None:
    try:
        shutil.copytree(installed_path(name), to, ignore=_IGNORED, dirs_exist_ok=True)
    except OSError as error:
        raise CommandError(f"{to} could not be written: {error}") from error
