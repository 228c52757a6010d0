"""Lists and rules that two distributions need, neither of which imports the other, are the same in both."""

import inspect
from collections.abc import Callable

import pytest
from pointsman_cli.retrain.data_step import FATAL_ERRORS, PROMPT_ERRORS
from pointsman_cli.sources import CODE_TYPES, FORMATTED_TYPES, MAX_FILE_BYTES, MEDIA_TYPES
from pointsman_embedding import pip_download
from pointsman_gateway.config.path_checks import MANAGED_ADAPTER
from pointsman_gateway.config.task_checks import ALIAS
from pointsman_lora_server import base_model
from pointsman_lora_server.domain import check_alias, check_version
from pointsman_retriever.chunking.sandboxed import kind_of, recipe_for
from pointsman_retriever.limits import MAX_CONTENT_BYTES
from pointsman_retriever.loaders.html_pdf import READERS
from pointsman_retriever.loaders.loader import JSONL, SANDBOXED_TYPES
from pointsman_servicekit.errors import InvalidArgument

from deploy.docs.sources import error_codes

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
