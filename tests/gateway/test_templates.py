"""Prompt templates: a user's text is never evaluated as a template, and a template can do only a few things."""

from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from pointsman.v1 import retriever_pb2
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.domain import Message, Passage, Request, Vector
from pointsman_gateway.extensions import Draft, Example, Found
from pointsman_gateway.prompts.strategies import apply_all
from pointsman_gateway.prompts.templates import PromptTemplates
from pointsman_servicekit.errors import Internal

from tests.gateway.doubles.config_folder import IN_POLICY
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.extensions import few_shot, instruction, retrieval
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.retriever import ScriptedRetriever

CODE = [
    "{{ 6 * 7 }}",
    "{% for x in range(9) %}{{ x }}{% endfor %}",
    "{{ query.__class__.__mro__ }}",
    "{% include '/etc/passwd' %}",
    "{{ '{{ 6 * 7 }}' }}",
    "}} {{ 6 * 7 }} {{",
    "{# a comment #}",
    "{%- set query = 'x' -%}",
    "{% raw %}",
    "# for x in y",
    "\\{{ 6 * 7 }}",
]


class Finds:
    """A retriever that finds one passage for every query."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        return Found((self._passage,), True, 1)


@pytest.mark.parametrize("code", CODE)
async def test_template_code_in_user_text_is_not_evaluated(code: str) -> None:
    templates = PromptTemplates(
        {
            "ask.txt": "Asked: {{ query }}|",
            "passages.txt": "{% for p in passages %}{{ p.document_id }}|{{ p.title }}|{{ p.text }}{% endfor %}",
        }
    )
    examples = [Example(code, code), Example("b", "c")]
    strategies = [
        instruction(templates, "ask.txt"),
        few_shot(templates, examples, np.eye(2, dtype=np.float32), 2, None),
        retrieval(templates, Finds(Passage(code, code, code, 1.0))),
    ]
    turns = (Message("system", code), Message("assistant", code), Message("user", code))
    made = await apply_all(strategies, Draft(Request("auto", turns, metadata={"code": code}, user=code), None))
    system, *rest = made.messages()
    assert system.content == f"Asked: {code}|\n\n{code}|{code}|{code}\n\n{code}"
    assert [m.content for m in rest] == [code, code, "b", "c", code, code]


@pytest.mark.parametrize("code", CODE)
async def test_template_code_in_user_text_reaches_the_engine_unchanged(
    neighbours: Neighbours, engine: ScriptedEngine, retriever: ScriptedRetriever, code: str
) -> None:
    neighbours.config.prompts["answer.txt"] = "The customer asks: {{ query }}"
    retriever.passages = [retriever_pb2.Passage(document_id="d", title=code, text=code, score=0.9)]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        body = {"model": "path:handbook", "messages": [{"role": "user", "content": f"{IN_POLICY} {code}"}]}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    assert engine.bodies[-1]["messages"][-1]["content"] == f"{IN_POLICY} {code}"
    assert engine.system == f"The customer asks: {IN_POLICY} {code}\n\n[{code}] {code}"


MALICIOUS = {
    "attribute": "{{ query.__class__ }}",
    "subscript": "{{ query['__class__'] }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "computed name": "{{ query['__cla' ~ 'ss__']['__mro__'] }}",
    "attr filter": "{{ query|attr('__class__') }}",
    "map": "{{ [query]|map(attribute='__class__')|list }}",
    "format": "{{ '{0.__class__}'.format(query) }}",
    "format filter": "{{ '%s'|format(query) }}",
    "method": "{{ query.upper() }}",
    "method that grows": "{{ query.ljust(1000000000) }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "lipsum": "{{ lipsum(1000000) }}",
    "self": "{{ self.__dict__ }}",
    "import": "{% import 'x' as x %}",
    "from": "{% from 'x' import y %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block x %}{% endblock %}",
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "call": "{% call x() %}{% endcall %}",
    "filter block": "{% filter upper %}x{% endfilter %}",
    "set": "{% set a = query %}",
    "with": "{% with a = query %}{% endwith %}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "multiplying": "{{ 'x' * 1000000000 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "percent": "{{ '%999999999d' % 1 }}",
    "center": "{{ query|center(1000000000) }}",
    "indent": "{{ query|indent(1000000000) }}",
    "replace": "{{ query|replace('', query) }}",
    "long range": "{% for x in range(1000000000) %}{% endfor %}",
    "long range, whole": "{{ range(1000000000)|list }}",
    "loops in loops": "{% for x in range(90000) %}{% for y in range(90000) %}{% endfor %}{% endfor %}",
    "budget": "{% for _steps_left in [1] %}{% endfor %}",
    "budget by name": "{{ _steps_left[0] }}",
    "secret": "{{ environ }}{{ settings }}{{ request }}{{ config }}",
    "autoescape": "{% autoescape true %}{% endautoescape %}",
    "do": "{% do query %}",
    "type": "{{ 1 + 'a' }}",
    "dividing": "{{ 1 / 0 }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}


@pytest.mark.parametrize("what", MALICIOUS)
def test_an_unsafe_or_endless_template_is_rejected_at_load(what: str) -> None:
    with pytest.raises(ConfigError, match=r"prompts/x\.txt"):
        instruction(PromptTemplates({"x.txt": MALICIOUS[what]}), "x.txt")


def test_the_error_lists_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match="unknown filter 'attr'; known: abs, capitalize, "):
        PromptTemplates({"x.txt": "{{ query|attr('x') }}"})
    with pytest.raises(ConfigError, match="a prompt may not use 'macro'"):
        PromptTemplates({"x.txt": "{% macro f() %}{% endmacro %}"})


USUAL = {
    "{% if query|length > 3 and 'bike' in query %}long{% elif not query %}none{% else %}short{% endif %}": "long",
    "{% for p in passages if p.score %}{{ loop.index }}/{{ loop.length }} {{ p['title'] }}{% endfor %}": "1/1 Bikes",
    "{{ query|trim|upper|truncate(8, leeway=0) }} {{ passages[0].text[:4] }}": "MY... They",
    "{{ (query ~ '!')|tojson }} {{ 'a' if passages is defined else 'b' }} {{ 1 + 2 - 4 }}": '"my bike rides!" a -1',
    "{% for n in range(3) %}{{ n }}{% if not loop.last %},{% endif %}{% endfor %}": "0,1,2",
    "{{ passages|length }} {{ ['a', 'b']|join(', ') }} {{ query|wordcount }}": "1 a, b 3",
    "{% for c in 'ab' %}{% for d in 'cd' %}{{ c }}{{ d }} {% endfor %}{% else %}-{% endfor %}": "ac ad bc bd",
}


@pytest.mark.parametrize("source", USUAL)
def test_common_template_features_are_allowed(source: str) -> None:
    passages = [Passage("bikes.md", "Bikes", "They ride free.", 0.9)]
    assert PromptTemplates({"x": source}).render("x", query="my bike rides", passages=passages) == USUAL[source]


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in query %}{% for b in query %}{% for c in query %}{% endfor %}{% endfor %}{% endfor %}",
        "{{ query|list|join(query) }}",
        "{% for n in range(90000) %}{{ query }}{% endfor %}",
        "{% if query|length > 9 %}{{ 1 + query }}{% endif %}",
    ],
)
def test_a_template_that_explodes_on_a_long_text_fails_that_request_only(source: str) -> None:
    templates = PromptTemplates({"x": source})
    templates.try_out("x", query="?")
    with pytest.raises(Internal, match=r"^prompts/x cannot be rendered for this request \(\w+\)$"):
        templates.render("x", query="secret " * 10_000)


async def test_an_unsafe_template_invalidates_the_configuration(
    neighbours: Neighbours, http: httpx.AsyncClient
) -> None:
    neighbours.config.prompts["persona.txt"] = MALICIOUS["subclasses"]
    neighbours.config.write()
    problem: Any = ""
    while not problem:
        problem = (await http.get("/v1/configuration")).json()["problem"]
    assert "prompts/persona.txt:1: access to attribute" in problem


def test_a_template_cannot_modify_passages() -> None:
    passages = [Passage("bikes.md", "Bikes", "They ride free.", 0.9)]
    for source in "{{ passages.append(1) }}", "{{ passages.clear() }}", "{{ passages.__len__() }}":
        with pytest.raises(ConfigError):
            PromptTemplates({"x": source})
    assert passages == [replace(passages[0])]
