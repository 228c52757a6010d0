"""Compares the tasks, paths, adapters, base models and prices in a certificate with the present configuration."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pointsman_cli.certificate.adapter_files import TRAINING, AdapterFiles, hash_of, read_adapter
from pointsman_cli.certificate.checks import Check, Outcome
from pointsman_cli.certificate.price_checks import price_checks
from pointsman_cli.certificate.statement import PathIdentity, Statement
from pointsman_cli.eval.catalog import Catalog, PathFacts


def catalog_checks(statement: Statement, catalog: Catalog, folders: Mapping[str, Path]) -> Iterator[Check]:
    """Compares the certified tasks, paths, adapters, base models and prices with the gateway's present ones, which are
    in `catalog`.

    Yields at least one check for each. `folders` are folders of adapters by the adapters' names; the files in them are
    compared too. Raises UsageError if a file of an adapter cannot be read.
    """
    for task in statement.tasks:
        yield from _task_checks(task, statement, catalog)
    fingerprints = {path.path: path.fingerprint for task in statement.report.tasks for path in task.paths}
    adapters = {path.path: path.adapter for task in statement.report.tasks for path in task.paths}
    for name, identity in statement.paths.items():
        yield _path_check(name, fingerprints[name], catalog.paths.get(name))
        if adapters[name] and name in catalog.paths:
            yield _version_check(name, identity, catalog.paths[name], statement, folders)
    for name, folder in folders.items():
        yield _files_check(name, folder, statement)
    for name, facts in statement.models.items():
        known = catalog.base_models.get(name)
        same = known is not None and known.fingerprint == facts.fingerprint
        detail = "the same name at its engines" if same else "another model, or another name at its engines"
        yield Check(f"base model {name}", Outcome.OK if same else Outcome.INVALID, detail)
    yield from price_checks(statement, catalog)


def _task_checks(task: str, statement: Statement, catalog: Catalog) -> Iterator[Check]:
    before, now, subject = statement.tasks[task], catalog.tasks.get(task), f"task {task}"
    if now is None:
        yield Check(subject, Outcome.INVALID, "there is no such task any more")
        return
    evaluated = next(each.metric_settings for each in statement.report.tasks if each.task == task)
    if evaluated == before.metric != now.metric:
        yield Check(subject, Outcome.INVALID, "its metric has changed")
        return
    added = [path for path in now.paths if path not in before.paths]
    if added:
        detail = f"{', '.join(added)} may answer it too now, and was not evaluated"
        yield Check(subject, Outcome.WEAKENED, detail)
        return
    yield Check(subject, Outcome.OK, "its paths and metric are those of the evaluation")


def _path_check(name: str, fingerprint: str, now: PathFacts | None) -> Check:
    subject = f"path {name}"
    if now is None:
        return Check(subject, Outcome.INVALID, "there is no such path any more")
    if now.fingerprint != fingerprint:
        return Check(subject, Outcome.INVALID, "its settings, prompts or examples have changed")
    return Check(subject, Outcome.OK, "its settings, prompts and examples are the same")


def _version_check(
    name: str, identity: PathIdentity, now: PathFacts, statement: Statement, folders: Mapping[str, Path]
) -> Check:
    subject, version = f"adapter of {name}", identity.version
    if now.versions == (version,):
        if hash_of(version):
            return Check(subject, Outcome.OK, f"{version}, named by the hash of its weights")
        return Check(subject, Outcome.NOT_CHECKED, f"{version} has no hash: only a sample notices other weights")
    adapter = now.adapter.partition("@")[0]
    if now.versions == (now.adapter,):
        if adapter in folders and _has_known_weights(adapter, version, statement):
            return Check(subject, Outcome.OK, f"by the files of {folders[adapter]}; no engine was asked for {version}")
        return Check(
            subject,
            Outcome.WEAKENED,
            f"no engine says whether {now.adapter} is still {version}, and no --adapter {adapter}=FOLDER was given",
        )
    if version in now.versions:
        return Check(subject, Outcome.WEAKENED, f"a canary answers beside {version}: {', '.join(now.versions)}")
    return Check(subject, Outcome.INVALID, f"it was {version}, and is {', '.join(now.versions) or 'none'} now")


def _certified_files(adapter: str, statement: Statement) -> AdapterFiles | None:
    """Returns the certified digests of an adapter's files; None if the certificate has no digests of its weights."""
    return next((each for each in statement.adapters if each.adapter == adapter and each.has_weights), None)


def _has_known_weights(adapter: str, version: str, statement: Statement) -> bool:
    """Returns whether a hash in the version's name, or a certified digest, says what an adapter's weights must be."""
    return bool(hash_of(version)) or _certified_files(adapter, statement) is not None


def _files_check(name: str, folder: Path, statement: Statement) -> Check:
    """Compares an adapter's weights in `folder` with the certified digests and the hashes of the certified versions.

    Also compares its training.json with the certified one.
    """
    subject, certified, found = f"files of {name}", _certified_files(name, statement), read_adapter(folder, name)
    versions = sorted({each.version for each in statement.paths.values() if each.version.partition("@")[0] == name})
    if others := [version for version in versions if not found.may_be(version)]:
        return Check(subject, Outcome.INVALID, f"{folder} has other weights than {', '.join(others)}")
    if certified is None:
        if any(map(hash_of, versions)):
            return Check(subject, Outcome.OK, f"{folder} has the weights of {', '.join(versions)}")
        return Check(subject, Outcome.WEAKENED, "the certificate has no digests of its weights")
    changed = [file for file, digest in certified.sha256.items() if found.sha256.get(file) != digest]
    if not changed:
        return Check(subject, Outcome.OK, f"{folder} has the certified files")
    if changed == [TRAINING]:
        return Check(subject, Outcome.WEAKENED, f"{TRAINING} in {folder} has changed, and the weights have not")
    return Check(subject, Outcome.INVALID, f"{', '.join(changed)} in {folder} changed")
