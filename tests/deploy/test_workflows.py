"""The workflows and issue forms are valid, have the least permissions and call existing targets; the release notes can
be made."""

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.helm.render import CHART
from deploy.supply import versions
from deploy.supply.images import PROJECT

BIN = Path(sys.executable).parent
CI = PROJECT / "deploy/ci"
WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
ZIZMOR = PROJECT / ".github/zizmor.yml"
RELEASE = PROJECT / ".github/workflows/release.yml"
workflow = pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)


def loaded(file: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(file.read_text()))


def test_actionlint_finds_nothing() -> None:
    done = subprocess.run([BIN / "actionlint", *WORKFLOWS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_zizmor_finds_no_insecure_step() -> None:
    options = ["--offline", "--quiet", "--min-severity", "medium"]
    done = subprocess.run([BIN / "zizmor", *options, PROJECT / ".github"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Returns a repository into which the files of deploy/ci were copied as their comments say."""
    for name, place in (("action.yml", "actions/certificate"), ("certificate.yml", "workflows")):
        folder = tmp_path / ".github" / place
        folder.mkdir(parents=True)
        (folder / name).write_text((CI / name).read_text())
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def test_the_workflow_and_the_action_for_users_are_valid_and_secure(copied: Path) -> None:
    action, used = copied / ".github/actions/certificate/action.yml", copied / ".github/workflows/certificate.yml"
    checking: list[str | Path] = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    commands: list[list[str | Path]] = [
        [BIN / "actionlint"],
        [BIN / "zizmor", "--offline", "--quiet", "--min-severity", "medium", "--config", ZIZMOR, "."],
        [*checking, "vendor.github-actions", action],
        [*checking, "vendor.github-workflows", used],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, cwd=copied)
        assert done.returncode == 0, done.stdout
    content = loaded(used)
    assert content["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in used.read_text()


@pytest.mark.parametrize("schema", ["github-workflows", "dependabot", "github-issue-forms"])
def test_files_are_valid_by_their_schemas(schema: str) -> None:
    files = {
        "github-workflows": WORKFLOWS,
        "dependabot": [PROJECT / ".github/dependabot.yml"],
        "github-issue-forms": [*(PROJECT / ".github/ISSUE_TEMPLATE").glob("[bf]*.yml")],
    }[schema]
    assert files
    program = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@workflow
def test_every_make_target_exists(file: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {name for line in re.findall(r"\bmake ((?:[a-z0-9-]+ ?)+)", file.read_text()) for name in line.split()}
    assert named
    assert named <= targets


@workflow
def test_workflows_read_only_unless_a_job_says_otherwise(file: Path) -> None:
    content = loaded(file)
    assert content["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in content["jobs"].values())
    assert "pull_request_target" not in file.read_text()


def test_all_supported_pythons_and_platforms_are_tested() -> None:
    jobs = loaded(PROJECT / ".github/workflows/ci.yml")["jobs"]
    matrix = jobs["quickstart"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {os.rpartition("-")[0] or os for os in matrix["os"]} >= {"ubuntu", "ubuntu-24.04", "macos"}


@pytest.mark.parametrize(
    ("place", "registry", "host"),
    [
        ("ghcr.io/Some-Owner", "ghcr.io/some-owner", "ghcr.io"),
        ("registry.example:5000/team/", "registry.example:5000/team", "registry.example:5000"),
    ],
)
def test_a_release_logs_in_to_the_host_of_its_registry(place: str, registry: str, host: str, tmp_path: Path) -> None:
    jobs = loaded(RELEASE)["jobs"]
    (step,) = (step for step in jobs["wheels"]["steps"] if step.get("id") == "names")
    output = tmp_path / "output"
    given = {"REGISTRY": place, "GITHUB_REF_NAME": "v1.2.3", "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-eu", "-c", step["run"]], check=True, env=given)
    assert output.read_text().split() == ["version=1.2.3", f"registry={registry}", f"host={host}"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    logins = [step["with"] for step in steps if step.get("uses", "").startswith("docker/login-action")]
    assert {login["registry"] for login in logins} == {"${{ needs.wheels.outputs.host }}"}
    assert {login["username"] for login in logins} == {"${{ secrets.REGISTRY_USER || github.actor }}"}
    pushing = [job for job in jobs.values() if "packages" in job.get("permissions", {})]
    assert {job["env"]["REGISTRY"] for job in pushing} == {"${{ needs.wheels.outputs.registry }}"}
    assert len(logins) == len(pushing)


def test_a_release_builds_and_signs_every_image_that_chart_and_compose_name() -> None:
    files = (PROJECT / "compose.yaml", CHART / "templates/retriever.yaml")  # the other templates name none besides
    named = {name for file in files for name in re.findall(r'pointsman-([a-z-]+)(?::\$|")', file.read_text())}
    jobs = loaded(RELEASE)["jobs"]
    matrix = jobs["images"]["strategy"]["matrix"]
    built = {*matrix["image"], *(each["image"] for each in matrix["include"])}
    built |= {f"lora-server-{each['kind']}" for each in jobs["lora-server"]["strategy"]["matrix"]["include"]}
    assert named >= {"gateway", "retriever", "retriever-gpu", "lora-server-cpu", "lora-server-cuda", "engine-cuda"}
    assert built == named
    (signing,) = (step["run"] for step in jobs["sign"]["steps"] if "cosign sign" in step.get("run", ""))
    assert set(re.findall(r"for image in (.+); do", signing)[0].split()) == built


def test_each_architecture_that_is_built_is_part_of_the_image_that_is_signed() -> None:
    jobs = loaded(RELEASE)["jobs"]
    matrix = jobs["images"]["strategy"]["matrix"]
    built = [(image, runner) for image in matrix["image"] for runner in matrix["runner"]]
    built += [(each["image"], each["runner"]) for each in matrix["include"]]
    on = [(each["kind"], each["runner"]) for each in jobs["lora-server"]["strategy"]["matrix"]["include"]]
    assert {(kind, runner) for name, runner in built if (kind := name.partition("engine-")[2])} == {*on}
    built += [(f"lora-server-{kind}", runner) for kind, runner in on]
    (signing,) = (step["run"] for step in jobs["sign"]["steps"] if "cosign sign" in step.get("run", ""))
    (always,) = re.findall(r"(?m)^ *case \"\$image\" in (.+)\) parts\+=.*-arm64", signing)
    (if_built,) = re.findall(r"if \[\[ \"\$image\" == (\S+) \]\] && docker buildx imagetools inspect .*-arm64", signing)
    patterns = [*always.split(" | "), if_built]
    signed = {image for image, _ in built if any(fnmatch(image, pattern) for pattern in patterns)}
    assert {image for image, runner in built if runner.endswith("-arm")} == signed
    for job in (jobs["images"], jobs["lora-server"]):
        assert job["continue-on-error"] == "${{ matrix.optional == true }}"
        added = job["strategy"]["matrix"]["include"]
        assert all(each.get("optional", False) == each["runner"].endswith("-arm") for each in added)
    tags = [step["run"] for step in jobs["images"]["steps"] if step.get("id") == "names"]
    assert '"$BASE")-${tag##*-}"' in tags[0]  # the tag of an unchanged engine is that of its architecture


def test_ci_builds_the_documentation_and_runs_its_commands() -> None:
    commands = [step.get("run") for step in loaded(PROJECT / ".github/workflows/ci.yml")["jobs"]["docs"]["steps"]]
    assert commands[-2:] == ["make docs", "make test-docs"]


def test_release_notes_are_the_top_entry() -> None:
    notes = versions.notes()
    assert notes.startswith("### Added")
    assert "\n## " not in notes


def test_a_release_needs_a_dated_entry_with_the_version_of_its_tag() -> None:
    assert versions.problems() == []
    released = "(not released)" not in versions.CHANGELOG.read_text()
    assert (versions.problems(f"v{versions.version()}") == []) is released
    assert any("the tag is v9.9.9" in problem for problem in versions.problems("v9.9.9"))


def test_a_release_runs_the_chart_in_a_cluster_before_it_signs_anything() -> None:
    jobs = loaded(RELEASE)["jobs"]
    commands = [step.get("run", "") for step in jobs["cluster"]["steps"]]
    assert any("kind create cluster" in command for command in commands)
    assert any(command.startswith("make test-kind REGISTRY=") for command in commands)
    assert "lora-server" in jobs["cluster"]["needs"]
    assert "cluster" in jobs["sign"]["needs"]
    recipe = re.findall(r"(?m)^test-kind:.*\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text())[0]
    install, test = re.sub(r"\\\n\t\s*", "", recipe).splitlines()
    assert {"--wait", "--wait-for-jobs", "--timeout"} <= {*install.split()}
    assert " test pointsman " in test  # has one request answered
    assert (PROJECT / re.findall(r"--values (\S+)", install)[0]).is_file()


def test_a_release_builds_all_images_on_the_same_pinned_bases_with_their_commit() -> None:
    jobs = loaded(RELEASE)["jobs"]
    steps = [*jobs["images"]["steps"], *jobs["lora-server"]["steps"]]
    builds = [step for step in steps if "build-push" in step.get("uses", "")]
    for step in builds:
        arguments = dict(line.split("=", 1) for line in step["with"]["build-args"].splitlines() if "=" in line)
        assert arguments["REVISION"] == "${{ github.sha }}"
        assert "SOURCE" in arguments
        base = arguments.get("BASE_IMAGE", "")
        assert ("fromJSON(needs.wheels.outputs.pins)" in base) != ("ENGINE_IMAGE" in arguments)
        assert "SOURCE_DATE_EPOCH" in step["env"]
    # Bytecode of engines is valid for the times of its sources, and machines keep their layers.
    assert builds[0]["with"]["outputs"].endswith("rewrite-timestamp=${{ !startsWith(matrix.image, 'engine-') }}")
    assert builds[1]["with"]["push"] is True
    assert builds[0]["if"] == "steps.names.outputs.there != 'true'"  # an unchanged engine is not built again
    (chart,) = (step["run"] for step in jobs["chart"]["steps"] if "make chart" in step.get("run", ""))
    assert "PINS=\"'${DIGESTS}' '${PINS}'\"" in chart
