"""Downloads a package with pip, without its dependencies.

The message of an error names the package, the index, the cause and the remedy.
"""

import re
import subprocess
import sys
from pathlib import Path

DEFAULT_INDEX = "https://pypi.org/simple"


class DownloadFailed(Exception):
    """Raised if pip could not download a package; the message says from where, why, and what to do."""


def download(requirement: str, folder: Path) -> Path:
    """Downloads the wheel of a requirement ("NAME==VERSION") into `folder`; returns the path of the wheel.

    Raises DownloadFailed if pip fails, or `folder` does not then have exactly one wheel.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--progress-bar", "off"]
    done = subprocess.run(
        [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement], capture_output=True, text=True
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise DownloadFailed(explain_failure(requirement, done.stdout, done.stderr))
    return wheels[0]


def explain_failure(requirement: str, output: str, errors: str) -> str:
    """Returns the message for a failed download, one line.

    `output` and `errors` are what pip has printed on standard output and standard error.
    """
    named = re.search(r"^Looking in indexes: (\S+?),?$", output, re.MULTILINE)
    index = named[1] if named else DEFAULT_INDEX
    causes = re.findall(r"connection broken by '(.+)': /|^ERROR: (.+)$", errors, re.MULTILINE)
    cause = next((broken or error for broken, error in causes), "pip printed no error")
    return (
        f"pip could not download {requirement} from {index}: {cause}; check the network, or set PIP_INDEX_URL to an "
        "index that this machine reaches"
    )
