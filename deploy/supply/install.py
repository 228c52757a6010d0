"""Creates a virtual environment and installs packages into it: `python install.py FOLDER ARGUMENT_OF_PIP_INSTALL...`.

uv installs in a fraction of pip's time but does not read pip's settings (`pip config list`), so they are passed to it.
pip itself installs if uv cannot be installed, if uv does not have a setting, or if uv fails.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

UV = "uv>=0.13,<1"
# uv's options have the same names.
OPTIONS = {"cert", "constraint", "extra-index-url", "find-links", "index-url", "trusted-host"}
SWITCHES = {"no-cache-dir", "no-index", "pre"}
# Settings that do not change what is installed.
IGNORED = {"config-file", "default-timeout", "disable-pip-version-check", "no-color", "no-input", "progress-bar"}
IGNORED |= {"quiet", "retries", "root-user-action", "timeout", "verbose"}
# Like pip, uv is to take the newest version of all indexes, and to trust the certificates that the system trusts.
ALIKE = ["--index-strategy=unsafe-best-match", "--system-certs"]


def read_settings(listing: str) -> dict[str, str]:
    """Returns the settings of `pip install` from the output of `pip config list`; the environment's take precedence."""
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.*)$", listing, re.MULTILINE)
    found.sort(key=lambda setting: ["global", "install", ":env:"].index(setting[0]))
    return {name: ast.literal_eval(value) for _, name, value in found}


def uv_arguments(settings: dict[str, str]) -> list[str]:
    """Translates pip's settings to uv's arguments. Raises LookupError, naming the setting, if one of them has no
    counterpart.
    """
    arguments = list(ALIKE)
    for name, value in settings.items():
        if name in OPTIONS:
            arguments += [f"--{name}={part}" for part in value.split()]
        elif name in SWITCHES:
            arguments += [f"--{name}"] * (value.lower() in {"1", "true", "yes", "y", "t", "on"})
        elif name not in IGNORED:
            raise LookupError(f"pip's setting {name} has no counterpart in uv")
    return arguments


def install(folder: Path, arguments: list[str]) -> None:
    """Installs packages into the virtual environment `folder`, by uv or else by pip; raises CalledProcessError."""
    if not (folder / "bin/python").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [f"{folder}/bin/python", "-m", "pip", "--disable-pip-version-check"]
    try:
        subprocess.run([*pip, "install", "--quiet", UV], check=True)
        listing = subprocess.run([*pip, "config", "list"], check=True, capture_output=True, text=True).stdout
        uv = [f"{folder}/bin/uv", "pip", "install", "--quiet", "--python", f"{folder}/bin/python"]
        subprocess.run([*uv, *uv_arguments(read_settings(listing)), *arguments], check=True)
    except (LookupError, subprocess.CalledProcessError) as reason:
        print(f"{folder}: installing with pip, which takes longer ({reason})", file=sys.stderr)
        subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip"], check=True)
        subprocess.run([*pip, "install", "--quiet", *arguments], check=True)


if __name__ == "__main__":
    install(Path(sys.argv[1]), sys.argv[2:])
