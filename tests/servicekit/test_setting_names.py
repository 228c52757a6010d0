"""A misspelt setting is an error at the start of each service."""

import os
import subprocess
import sys

import pytest
from pointsman_servicekit.setting_names import UnknownSetting, require_known_settings

NAMES = ("listen", "log_level")


def test_settings_variables_of_others_and_further_names_are_accepted() -> None:
    environment = {"APP_LISTEN": "", "app_log_level": "", "HOME": "/", "APP_SERVER": ""}
    require_known_settings("APP_", NAMES, environment, {"APP_SERVER"})


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("APP_LOG_LEVLE", "APP_LOG_LEVLE is no setting; did you mean APP_LOG_LEVEL?"),
        ("APP_XYZZY_PLUGH", "APP_XYZZY_PLUGH is no setting"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_similar_one(variable: str, message: str) -> None:
    with pytest.raises(UnknownSetting) as caught:
        require_known_settings("APP_", NAMES, {variable: "1"})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("service", "prefix"), [("gateway", "GATEWAY"), ("lora_server", "LORA"), ("retriever", "RETRIEVER")]
)
def test_a_service_with_a_misspelt_setting_does_not_start(service: str, prefix: str) -> None:
    environment = {**os.environ, f"POINTSMAN_{prefix}_LOG_LEVLE": "INFO"}
    command = [sys.executable, "-m", f"pointsman_{service}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"POINTSMAN_{prefix}_LOG_LEVLE is no setting; did you mean POINTSMAN_{prefix}_LOG_LEVEL?" in ended.stderr
