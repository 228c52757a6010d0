"""From a folder that nobody vouches for to a checked copy: what was checked is what is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pointsman_servicekit.errors import InvalidArgument

from pointsman_lora_server.checks import dora, files
from pointsman_lora_server.checks.base import BaseModelSpec
from pointsman_lora_server.checks.config import AdapterConfig, canonical, read_config
from pointsman_lora_server.checks.files import CONFIG, REPORT, WEIGHTS, SourceFolder
from pointsman_lora_server.checks.report import TrainingReport, read_report
from pointsman_lora_server.checks.samples import SAMPLES, read_samples, write_samples
from pointsman_lora_server.checks.values import check_values
from pointsman_lora_server.checks.weights import read_layout, refused


@dataclass(frozen=True, slots=True)
class ImportedAdapter:
    """Of an adapter that passed: its copy lies in the folder that was given."""

    rank: int
    target_modules: tuple[str, ...]
    report: TrainingReport
    facts: Mapping[str, str]
    """What was changed on the way."""


def import_adapter(folder: Path, copy: Path, base: BaseModelSpec, max_rank: int) -> ImportedAdapter:
    """Raises InvalidArgument with the reason of the refusal, NotFound where there is no folder."""
    with files.opening(folder) as source:
        config = read_config(source.read(CONFIG, "bad_config"), base, max_rank)
        _copy_weights(source, copy / WEIGHTS, base, config)
        samples = source.read_if_there(SAMPLES, "bad_samples")
        raw_report = source.read_if_there(REPORT, "bad_report")
    if samples is not None:
        (copy / SAMPLES).write_bytes(write_samples(read_samples(samples)))
    report = TrainingReport() if raw_report is None else read_report(raw_report)
    if raw_report is not None:
        (copy / REPORT).write_bytes(raw_report)
    check_digest(report.base_digest, "training.json", base)
    layout = read_layout(copy / WEIGHTS, config, base)
    check_values(copy / WEIGHTS, layout, config)
    facts = {}
    if config.dora:
        deviation = dora.make_plain(copy / WEIGHTS, layout, config, base)
        facts = {"converted_from": "DoRA", "converted_deviation": f"{deviation:.2g}"}
    written = canonical(config, list(layout.pairs))
    (copy / CONFIG).write_bytes(written)
    targets = tuple(sorted(layout.pairs)) if config.targets.by_pattern else config.targets.named
    return ImportedAdapter(config.rank, targets, report, facts)


def check_digest(named: str, where: str, base: BaseModelSpec) -> None:
    """Raises InvalidArgument ("wrong_base_model") where both digests are known, and not the same."""
    if named and base.digest and named != base.digest:
        raise InvalidArgument(
            f"{where} says that the adapter was trained on a base model with the digest {named[:12]}..., and this "
            f"engine serves '{base.served_name}' with {base.digest[:12]}...: another model, or another recipe of it. "
            "Train on the base that the engine serves",
            code="wrong_base_model",
            param="folder",
        )


def _copy_weights(source: SourceFolder, target: Path, base: BaseModelSpec, config: AdapterConfig) -> None:
    left = most = base.most_bytes(config.rank)
    with source.open(WEIGHTS, "bad_weights") as read, target.open("xb") as written:
        if read.seek(0, 2) > most:
            raise _too_large(base, config, most)
        read.seek(0)
        while chunk := read.read(min(files.CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:  # it grows while it is read
                raise _too_large(base, config, most)
            written.write(chunk)


def _too_large(base: BaseModelSpec, config: AdapterConfig, most: int) -> InvalidArgument:
    return refused(
        f"is larger than one of rank {config.rank} for '{base.served_name}' can be: {most} bytes", "too_large"
    )
