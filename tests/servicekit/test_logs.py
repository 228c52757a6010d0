"""Log lines, as another program would read them from standard error."""

import re
import subprocess
import sys

PROGRAM = """
import logging
from pointsman_servicekit import logs
logs.set_up("retriever", "INFO")
log = logging.getLogger("shelf")
log.info("before")
logs.request_id.set("abc-123")
log.info("opened %s", "handbook")
log.debug("hidden")
logging.getLogger("httpx").info("hidden")
"""


def test_a_line_names_service_request_and_module() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    before, opened = ran.stderr.splitlines()
    assert before.endswith(" INFO    retriever [-] shelf: before")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO    retriever \[abc-123\] shelf: opened handbook", opened)
