"""Prints what `pointsman retrain` has to know of a training method, as a JSON object in one line:
`python -m pointsman_lora_server.training.methods METHOD`, with METHOD as for `--method` of the trainer.

Exit codes: 0, 1 (there is no such method), 2 (wrong arguments). The lora-server runs it in the engine's environment,
in which the code of all methods is installed.
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
