"""Runs the `pointsman` command outside the containers."""

import json
import subprocess
import sys


def pointsman(*arguments: str) -> str:
    """Runs the command and returns its output. Raises AssertionError with the output if the command fails."""
    done = subprocess.run([sys.executable, "-m", "pointsman_cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"pointsman {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def made_key(redis_url: str) -> str:
    output = pointsman("keys", "create", "test", "--tenant", "acme", "--json", "--redis", redis_url)
    return str(json.loads(output)["key"])
