"""The table of clients in docs/clients.md agrees with the clients of tests/clients and their last results."""

import pytest

from tests.clients.compatibility import CLIENTS, FEATURES, PAGE, Client, read_results, render_table, with_table

ALL = dict.fromkeys(FEATURES, True)
client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


def test_the_table_is_generated_from_the_results() -> None:
    page = PAGE.read_text()

    assert with_table(page, read_results()) == page, "`make test-clients` writes the table"


def test_every_result_belongs_to_a_client() -> None:
    assert set(read_results()) == {client.name for client in CLIENTS}


@client
def test_each_client_works_in_the_version_that_is_pinned(client: Client) -> None:
    result = read_results()[client.name]

    assert client.versions
    tested = (result["versions"], result["engine"])
    assert tested == (client.versions, client.engine), f"run `make test-clients CLIENTS={client.name}`"
    assert [
        (api, name) for api, checks in result["checks"].items() for name, passed in checks.items() if not passed
    ] == []


@client
def test_the_table_has_a_row_for_each_client_with_the_checks_that_each_api_passed(client: Client) -> None:
    checks = read_results()[client.name]["checks"]

    (row,) = render_table({client.name: {"versions": ["x 1"], "engine": "vLLM", "checks": checks}}).splitlines()[2:]

    lines = [line.split(": ") for line in row.split(" | ")[1].removesuffix(" |").split("<br>")]
    shown = {api.strip("*"): passed for apis, passed in lines for api in apis.split("; ")}
    assert {api: set(FEATURES if passed == "all" else passed.split(", ")) for api, passed in shown.items()} == {
        api: set(of_api) for api, of_api in checks.items()
    }


def test_a_client_that_got_scripted_answers_is_marked() -> None:
    table = render_table({"a": {"versions": ["a 1.0"], "engine": "scripted", "checks": {"rerank": {"plain": True}}}})

    assert "| a 1.0 (scripted) | *rerank*: plain |\n" in table


def test_a_failed_check_is_shown() -> None:
    checks = {"responses": {"plain": False, "tools": True}, **dict.fromkeys(("messages", "chat completions"), ALL)}

    table = render_table({"a": {"versions": ["a 1.0"], "engine": "vLLM", "checks": checks}})

    assert "| a 1.0 | *responses*: **not plain**, tools<br>*messages*; *chat completions*: all |\n" in table
