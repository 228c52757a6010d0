"""Prints the properties of a training method that `pointsman retrain` needs, as one line of JSON: "learns_from_pairs"
and "must_be_merged" (see `TrainingMethod`).

Usage: `python -m pointsman_lora_server.training.methods METHOD`, where METHOD is a name as for the trainer's option
--method. Exit codes: 0, 1 (there is no such method), 2 (wrong arguments). The lora-server runs this in the engine's
Python environment, where the code of all methods is installed.
"""

import argparse
import json
import sys

from pointsman_lora_server.training.methods.registry import load_method


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pointsman_lora_server.training.methods")
    parser.add_argument("method")
    name = parser.parse_args().method
    try:
        method = load_method(name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"learns_from_pairs": method.learns_from_pairs, "must_be_merged": method.must_be_merged}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
