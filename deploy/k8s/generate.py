"""Write the PrometheusRule object from the rule files that promtool tests: `python -m deploy.k8s.generate`."""

from pathlib import Path

import yaml

RULES = Path(__file__).parents[1] / "prometheus" / "rules"
MADE = Path(__file__).parent / "components" / "monitoring" / "rules.yaml"

_HEAD = "# Made from deploy/prometheus/rules by `make k8s-rules`: change it there.\n"


def prometheus_rule() -> str:
    """Return one YAML object with all rule groups of all files."""
    groups = [group for file in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "pointsman", "labels": {"release": "prometheus"}},
        "spec": {"groups": groups},
    }
    return _HEAD + yaml.safe_dump(rule, sort_keys=False, width=120)


if __name__ == "__main__":
    MADE.write_text(prometheus_rule())
