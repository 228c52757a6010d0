"""Opens the targets that `POINTSMAN_EXPORT_TARGET` names."""

from pointsman_gateway.export.record_target import AllTargets, RecordTarget, WrongTarget

SEPARATOR = ","
OTLP = "otlp+"
"""Stands before the URL of an OpenTelemetry collector."""


def open_targets(addresses: str) -> RecordTarget:
    """Opens one target, or several with commas between them. Raises WrongTarget, also if a package is missing."""
    targets = [_open(one.strip()) for one in addresses.split(SEPARATOR)]
    return targets[0] if len(targets) == 1 else AllTargets(targets)


def _open(address: str) -> RecordTarget:
    scheme, _, host = address.partition("://")
    if scheme.startswith(OTLP):
        if scheme.removeprefix(OTLP) not in ("http", "https") or not host.strip("/"):
            raise WrongTarget(f"'{address}' is no collector: use otlp+http://HOST:4318 or otlp+https://HOST:4318")
        try:
            from pointsman_gateway.export.otlp_target import OtlpTarget
        except ImportError as error:
            raise WrongTarget(f"{error}: install pointsman-gateway[tracing]") from error
        return OtlpTarget(address.removeprefix(OTLP))
    try:
        from pointsman_gateway.export.parquet_target import ParquetTarget
        from pointsman_gateway.export.target import open_target
    except ImportError as error:
        raise WrongTarget(f"{error}: install pointsman-gateway[parquet]") from error
    return ParquetTarget(open_target(address))
