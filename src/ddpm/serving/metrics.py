"""Metrics of a server in the text format of Prometheus, for GET /metrics."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ddpm.serving.served_models import ServedModels

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
"""Upper ends of the histogram's intervals of time."""


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
        yield GaugeMetricFamily(
            "ddpm_running_work", "Network evaluations times pixels of the running calls", value=models.running_work
        )
