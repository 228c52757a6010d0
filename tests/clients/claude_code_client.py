"""One turn of Claude Code without its own instructions and tools, which exceed the help desk's context window.

test_claude_code.py tests turns with all of them against a scripted engine.
"""

import json
import os
import subprocess
import tempfile

from checks import BASE_MODEL, MESSAGES, QUESTION, STREAMING, run


def one_turn(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "none",
            "ANTHROPIC_SMALL_FAST_MODEL": BASE_MODEL,
            "API_TIMEOUT_MS": "500000",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1000",  # it sends the date, so the answer and its length vary by the day
            "CLAUDE_CONFIG_DIR": folder,
            "HOME": folder,
        }
        command = ["claude", "--print", QUESTION, "--model", BASE_MODEL, "--system-prompt", "Be brief.", "--tools", ""]
        done = subprocess.run(
            [*command, "--output-format", "json"],
            capture_output=True,
            text=True,
            timeout=500,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )
    assert done.returncode == 0, (done.stdout, done.stderr)
    answer = json.loads(done.stdout)
    assert not answer["is_error"], answer
    assert answer["result"], answer


if __name__ == "__main__":
    run({MESSAGES: {STREAMING: one_turn}})
