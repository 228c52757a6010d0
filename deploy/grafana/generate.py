"""Write the dashboards: `python -m deploy.grafana.generate [--check]`. Needs the packages in requirements.txt of this
folder."""

import argparse
import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.adapters import ADAPTERS
from deploy.grafana.committed import FOLDER
from deploy.grafana.engine_and_gateway import ENGINE_AND_GATEWAY
from deploy.grafana.hybrid_routing import HYBRID_ROUTING
from deploy.grafana.panels import Dashboard, written

DASHBOARDS = (HYBRID_ROUTING, ADAPTERS, ENGINE_AND_GATEWAY)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the dashboards that Grafana reads.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which would be")
    check = parser.parse_args().check
    texts = {f"{dashboard.uid.removeprefix('pointsman-')}.json": _text(dashboard) for dashboard in DASHBOARDS}
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    differ = sorted(name for name in texts.keys() | there.keys() if texts.get(name) != there.get(name))
    for name in differ:
        print(f"{FOLDER.name}/{name} {'is not as it would be written' if check else 'written'}")
        if not check and name in texts:
            (FOLDER / name).write_text(texts[name])
        elif not check:
            (FOLDER / name).unlink()
    return 1 if check and differ else 0


def _text(dashboard: Dashboard) -> str:
    return json.dumps(written(dashboard), cls=JSONEncoder, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main())
