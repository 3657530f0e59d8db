"""Metrics of a server in the text format of Prometheus, for GET /metrics."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ddpm.serving.served_models import ServedModels

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
"""Upper ends of the histogram's intervals of time."""

_WATCHED = {
    "images": "Images of the served version that were looked at",
    "distance": "Frechet distance of its last images from the measured ones",
    "distance_by_chance": "Largest such distance of as many measured images",
    "seconds_of_one_image": "Median time of an image, in seconds",
}

_BESIDE = {
    "requests": "Requests that both versions drew",
    "errors": "Errors of a version meanwhile",
    "seconds_of_one_image": "Median time of an image, in seconds",
    "distance": "Frechet distance of the last images of a version from its measured ones",
    "distance_by_chance": "Largest such distance of as many measured images",
}


class ServerMetrics:
    """Counters of one server, what it serves, and memory and time of its process (on Linux)."""

    def __init__(self, models: ServedModels) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

        self._models, self._registry = models, CollectorRegistry()
        self._calls = Counter(
            "ddpm_calls", "Calls to /invocations by HTTP status of the answer", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "ddpm_call_seconds",
            "Seconds from the arrival of a call that was answered with images to its answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def called(self, status: int, seconds: float) -> None:
        """Count one call to /invocations."""
        self._calls.labels(str(status)).inc()
        if status == 200:
            self._seconds.observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def collect(self) -> "Iterator[Metric]":
        """Yield what is read at the moment of a request."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        models = self._models
        identity = {name: value or "" for name, value in models.current.answering.identity.items()}
        yield InfoMetricFamily("ddpm_served", "The served model", value=identity)
        yield GaugeMetricFamily("ddpm_ready", "1 if the served model has drawn an image", value=models.is_ready)
        is_champion = models.champion is not None and models.current.number == models.champion
        yield GaugeMetricFamily("ddpm_is_champion", "1 if the served version is the champion", value=is_champion)
        if models.current.watching is not None:
            yield from _of_watch(models.current.watching.to_json())
        if models.shadow is not None:
            yield from _of_shadow(models.shadow.to_json())
        yield GaugeMetricFamily(
            "ddpm_running_work", "Network evaluations times pixels of the running calls", value=models.running_work
        )


def _of_watch(figures: "Mapping[str, Any]") -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily

    for name, meaning in _WATCHED.items():
        if figures[name] is not None:
            yield GaugeMetricFamily(f"ddpm_watch_{name}", meaning, value=figures[name])
    crossed = GaugeMetricFamily("ddpm_watch_crossed", "1 for each limit that was crossed", labels=["limit"])
    for limit in figures["crossed"]:
        crossed.add_metric([limit], 1)
    yield crossed


def _of_shadow(figures: "Mapping[str, Any]") -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily

    both = {role: figures[role] for role in ("served", "shadow") if figures[role] is not None}
    for name, meaning in _BESIDE.items():
        family = GaugeMetricFamily(f"ddpm_shadow_{name}", meaning, labels=["role", "version"])
        for role, own in both.items():
            if own[name] is not None:
                family.add_metric([role, own["version"]], own[name])
        yield family
    yield GaugeMetricFamily(
        "ddpm_shadow_dropped", "Requests that the shadow had no time to draw", value=figures["dropped"]
    )
