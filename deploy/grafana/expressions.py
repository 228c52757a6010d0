"""PromQL expressions that several panels share. `$...` are Grafana variables."""

PATH = 'path=~"$path"'
TASK = 'task=~"$task"'
PATH_TASK = f"{PATH},{TASK}"
ADAPTER_KINDS = 'kind=~"lora|hybrid"'

EVERY = "[$__rate_interval]"
"""The rate window: long enough for four scrapes at any zoom level."""

OUR_FAULT = 'fault=~"gateway|engine|retriever|state|adapter"'
NOT_THEIRS = 'fault!~"caller|limits"'


def rate(series: str, by: str = "") -> str:
    return f"sum{_by(by)} (rate({series}{EVERY}))"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Return the quantile of `histogram`, a metric name with optional labels such as `seconds{path="a"}`. It is empty
    without requests."""
    name, brace, labels = histogram.partition("{")
    buckets = f"sum{_by(', '.join(filter(None, [by, 'le'])))} (rate({name}_bucket{brace}{labels}{EVERY}))"
    return f"histogram_quantile({share}, {buckets}) >= 0"


def mean(histogram: str, by: str = "") -> str:
    name, brace, labels = histogram.partition("{")
    labels = brace + labels
    return f"{rate(f'{name}_sum{labels}', by)} / ({rate(f'{name}_count{labels}', by)} > 0)"


def share(part: str, whole: str) -> str:
    """Return `part / whole` for equal label sets: 0 if only the part is missing, empty if the whole is missing."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def adapter_hits(window: str) -> str:
    """Share of requests on paths with an adapter that did not wait for the adapter to load."""
    lent = f"sum by (path) (rate(pointsman_requests_total{{{ADAPTER_KINDS},{PATH}}}{window}))"
    waited = f'sum by (path) (rate(pointsman_phase_duration_seconds_count{{phase="adapter",{PATH}}}{window}))'
    return f"1 - (sum({waited} and on (path) {lent}) or 0 * sum({lent})) / (sum({lent}) > 0)"


def or_none(part: str, whole: str, on: str = "") -> str:
    """Return `part`, or 0 if only `whole` exists: a labelled counter has no series before its first increment. `on`
    lists the labels of `whole`."""
    return f"{part} or on ({on}) 0 * {whole}"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
