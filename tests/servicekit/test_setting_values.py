"""A setting with a wrong value is an error of one line at the start of each service."""

import os
import subprocess
import sys

import pytest
from pointsman_servicekit.setting_values import WrongSetting

SERVICES = [("gateway", "GATEWAY"), ("lora_server", "LORA"), ("retriever", "RETRIEVER")]


def test_each_wrong_value_is_named_with_its_variable() -> None:
    errors = [
        {"msg": "Value error, write a name", "loc": ("data_roots", 0), "input": "5"},
        {"msg": "Value error, APP_A and APP_B exclude each other", "loc": (), "input": {"a": "secret"}},
    ]
    told = str(WrongSetting("APP_", errors))
    assert told == "APP_DATA_ROOTS is '5': write a name; APP_A and APP_B exclude each other"


@pytest.mark.parametrize(("service", "prefix"), SERVICES)
def test_a_service_with_a_wrong_value_says_so_in_one_line(service: str, prefix: str) -> None:
    environment = {**os.environ, f"POINTSMAN_{prefix}_SHUTDOWN_DELAY": "soon"}
    command = [sys.executable, "-m", f"pointsman_{service}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    told = f"pointsman_{service}: POINTSMAN_{prefix}_SHUTDOWN_DELAY is 'soon': Input should be a valid number"
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith(told)
