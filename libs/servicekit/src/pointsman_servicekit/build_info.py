"""Says in a metric which release of a service runs."""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge


def tell_build(registry: CollectorRegistry, service: str) -> None:
    """`service` is the name after "pointsman-" of an installed distribution. Raises PackageNotFoundError."""
    told = Gauge("pointsman_build_info", "1 for the release that runs.", ["service", "version"], registry=registry)
    told.labels(service, version(f"pointsman-{service}")).set(1)
