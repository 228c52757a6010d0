"""Lists and rules of which two copies must exist are the same in both. Neither place can import the other, such as two
distributions, or Python and JavaScript."""

import inspect
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from pointsman.v1 import training_pb2
from pointsman_cli import example, jobs, options
from pointsman_cli.keys import tables
from pointsman_cli.retrain import train_step
from pointsman_cli.retrain.data_step import FATAL_ERRORS, PROMPT_ERRORS
from pointsman_cli.sources import CODE_TYPES, FORMATTED_TYPES, MAX_FILE_BYTES, MEDIA_TYPES
from pointsman_cli.top import command as top
from pointsman_cli.top.figures import CLIENT_FAULTS, TOKENS
from pointsman_cli.train import progress
from pointsman_cli.train.options import DEFAULT_METHOD
from pointsman_embedding import pip_download
from pointsman_gateway.config.field_types import NAME_PATTERN
from pointsman_gateway.config.flywheel import TrainingRecipe
from pointsman_gateway.config.path_checks import MANAGED_ADAPTER
from pointsman_gateway.config.task_checks import ALIAS
from pointsman_gateway.domain import Kind
from pointsman_gateway.domain.outcome import Fault
from pointsman_gateway.extensions import STRATEGIES
from pointsman_gateway.metering.prometheus import TOKEN_TYPES
from pointsman_gateway.settings import Settings as GatewaySettings
from pointsman_gateway.tenancy import reservation
from pointsman_lora_server import base_model
from pointsman_lora_server.adapters import promotion
from pointsman_lora_server.domain import CanaryTerms, check_alias, check_version
from pointsman_lora_server.grpc import servicers
from pointsman_lora_server.jobs import job, method
from pointsman_lora_server.settings import Settings as LoraSettings
from pointsman_lora_server.training import options as trainer_options
from pointsman_lora_server.training import scoring
from pointsman_retriever.chunking.sandboxed import kind_of, recipe_for
from pointsman_retriever.domain import NAME_PATTERN as RETRIEVER_NAME_PATTERN
from pointsman_retriever.external.stores import EXTERNAL_STORES
from pointsman_retriever.limits import MAX_CONTENT_BYTES
from pointsman_retriever.loaders.html_pdf import READERS
from pointsman_retriever.loaders.loader import JSONL, SANDBOXED_TYPES
from pointsman_retriever.settings import Settings as RetrieverSettings
from pointsman_scoring.metrics import Exact
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.keys.redis_layout import WINDOWS

from deploy.docs.sources import error_codes
from deploy.supply.images import STORES

CONSOLE = Path(str(resources.files("pointsman_gateway"))) / "http" / "console" / "assets"

ADAPTERS = (
    "triage@prod", "triage@3f9a1c0b77de", "a_b-9@c_d-8", "triage", "triage@", "@prod", "Triage@prod", "tri.age@prod",
    "triage@Prod", "triage@pr od", "triage@prod@x", f"{'a' * 64}@{'b' * 64}", f"{'a' * 65}@prod", f"a@{'b' * 65}",
    "triage@3f9a1c0b77d", "triage@3f9a1c0b77dee", "triage@3F9A1C0B77DE",
)  # fmt: skip


def is_accepted(check: Callable[[str], None], name: str) -> bool:
    try:
        check(name)
    except InvalidArgument:
        return False
    return True


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_configuration_accepts_the_adapter_names_of_the_lora_server(name: str) -> None:
    is_alias, is_version = is_accepted(check_alias, name), is_accepted(check_version, name)
    assert bool(MANAGED_ADAPTER.fullmatch(name)) == (is_alias or is_version)
    assert bool(ALIAS.fullmatch(name)) == is_alias


def test_the_retriever_reads_every_kind_of_file_that_the_command_sends() -> None:
    assert {media_type for media_type in MEDIA_TYPES.values() if not media_type.startswith("text/")} <= {
        JSONL,
        *SANDBOXED_TYPES,
    }
    assert READERS.keys() == SANDBOXED_TYPES >= set(FORMATTED_TYPES.values()) - {JSONL}
    kinds = {suffix: kind_of(recipe_for(media_type)) for suffix, media_type in MEDIA_TYPES.items()}
    assert {suffix for suffix, kind in kinds.items() if kind == "code"} == CODE_TYPES.keys()
    assert MAX_FILE_BYTES == MAX_CONTENT_BYTES


def test_a_failed_download_has_the_same_explanation_in_both_environments() -> None:
    functions = (pip_download.explain_failure, base_model.explain_failure)
    assert len({inspect.getsource(function) for function in functions}) == 1
    assert pip_download.DEFAULT_INDEX == base_model.DEFAULT_INDEX


def test_the_error_codes_on_which_a_retraining_depends_are_raised_by_the_services() -> None:
    raised = {code for code, error in error_codes().items() if "gateway" in error.services}
    assert {*PROMPT_ERRORS, *FATAL_ERRORS} - raised == set()


def test_names_have_one_form_everywhere() -> None:
    assert {NAME_PATTERN, example.NAME_PATTERN, RETRIEVER_NAME_PATTERN.pattern} == {"[a-z0-9_-]{1,64}"}


def test_the_command_connects_to_the_addresses_at_which_the_services_listen_by_default() -> None:
    gateway, retriever, lora_server = (one.model_fields for one in (GatewaySettings, RetrieverSettings, LoraSettings))
    assert gateway["http_listen"].default == options.DEFAULT_HTTP
    assert gateway["grpc_listen"].default == options.DEFAULT_GRPC
    assert retriever["listen"].default == options.DEFAULT_RETRIEVER
    assert lora_server["listen"].default == options.DEFAULT_LORA_SERVER
    assert lora_server["metrics_listen"].default == top.DEFAULT_LORA_METRICS


def test_the_strategies_that_the_command_knows_are_those_of_the_gateway() -> None:
    """The command treats all others as extensions, and starts every service that they might need."""
    assert STRATEGIES.builtins.keys() >= example.STRATEGIES
    without = {name for name in STRATEGIES.builtins if not STRATEGIES.find(name).needs_embedding}
    assert without >= example.STRATEGIES_WITHOUT_EMBEDDING


def test_the_command_reads_labels_that_the_gateway_writes() -> None:
    assert {*TOKEN_TYPES.values(), "replayed"} == set(TOKENS)
    assert {Fault.NONE, Fault.CALLER, Fault.LIMITS} == CLIENT_FAULTS


def test_each_limit_of_a_key_has_a_window_and_words_in_messages_tables_and_the_console() -> None:
    limits = list(Limits.__dataclass_fields__)
    assert list(WINDOWS) == list(reservation.LIMIT_TEXTS) == list(tables.SHORT_LIMITS) == limits
    assert keys_of("keys.js", "LIMITS") == limits


def test_the_console_draws_each_kind_of_path() -> None:
    assert keys_of("words.js", "KINDS") == [kind.value for kind in Kind]


def keys_of(script: str, constant: str) -> list[str]:
    """Returns the keys of an object in a script of the console."""
    (written,) = re.findall(rf"const {constant} = \{{(.*?)\}};", (CONSOLE / script).read_text("utf-8"), re.DOTALL)
    return re.findall(r"(\w+):", re.sub(r'"[^"]*"', "", written))


def test_a_retraining_lets_a_canary_be_compared_after_as_many_requests_as_the_lora_server() -> None:
    assert CanaryTerms().min_requests == train_step.MIN_CANARY_REQUESTS


def test_the_trainer_the_lora_server_and_the_command_have_the_same_measures() -> None:
    measures = (scoring.EXACT, scoring.JSON_F1, scoring.WORD_F1)
    assert measures == promotion.METRICS == progress.METRICS[: len(measures)]


def test_json_is_exact_for_the_trainer_if_it_is_for_an_evaluation() -> None:
    values = ('{"a": 1}', '{"a": 1.0}', '{"a": true}', '{"a": "1"}', '{"a": "x"}', '{"a": "X"}', "[1, 2]", "[2, 1]",
              '{"a": [], "b": null}', '{"b": null, "a": []}', '{"a": {}}', "{}")  # fmt: skip
    for expected in values:
        for answer in values:
            assert scoring.ScoredAnswer(expected, answer).is_exact == bool(Exact().score(answer, expected))


def test_each_option_of_a_training_job_is_one_of_the_trainer() -> None:
    fields = {field.name for field in training_pb2.TrainingRecipe.DESCRIPTOR.fields}
    assert {field.replace("_", "-") for field in fields} == job.OPTION_BOUNDS.keys()
    assert TrainingRecipe.model_fields.keys() <= fields
    needed = ["--base-model", ".", "--data", "x", "--out", "out", "--name", "n"]
    given = [f"--{option}={bounds[0]:g}" for option, bounds in job.OPTION_BOUNDS.items()]
    assert trainer_options.parse([*needed, *given]).recipe.rank == 1


def test_the_default_method_is_the_same_for_the_command_the_lora_server_and_the_trainer() -> None:
    assert DEFAULT_METHOD == servicers.DEFAULT_METHOD == trainer_options.DEFAULT_METHOD


def test_the_command_waits_longer_for_the_description_of_a_method_than_the_lora_server() -> None:
    assert jobs.DESCRIBE_SECONDS > method.DESCRIBE_SECONDS


def test_the_images_have_the_client_of_each_external_store() -> None:
    assert set(STORES) <= EXTERNAL_STORES.keys()
