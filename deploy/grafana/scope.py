"""Restricts a dashboard's queries to one installation, in case several use the same Prometheus."""

import re

import promql_parser as promql

INSTALLATION = 'cluster=~"$cluster",namespace=~"$namespace"'
"""Matchers of the installation that is selected in Grafana. Series without these labels match if nothing can be
selected."""

_TEXT = r'"[^"]*"|\'[^\']*\''
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


def scoped(query: str, matchers: str = INSTALLATION) -> str:
    """Returns the PromQL query with `matchers` in each selector; raises ValueError if it cannot be parsed."""
    name = "|".join(map(re.escape, sorted(_names(query), key=len, reverse=True)))
    return re.sub(
        rf"{_TEXT}|(?<![\w:])({name})(?![\w:])(\{{(\s*\}})?)?",
        lambda found: f"{found[1]}{{{matchers}{',' if found[2] and not found[3] else '}'}" if found[1] else found[0],
        query,
    )


def _names(query: str) -> set[str]:
    """Returns the names of the series that the query selects."""
    names: set[str] = set()

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            names.add(str(node.name))
        return True

    promql.walk(promql.parse(_VARIABLE.sub(lambda found: "1m" if "interval" in found[1] else ".*", query)), visit)
    return names
