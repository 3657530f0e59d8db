"""The load of this machine while a run goes on.

MLflow's gauges are used without its thread: that one stops at the first error of the store, and its end waits for a
store that does not answer.
"""

import threading
from collections.abc import Callable, Mapping


class SystemMetrics:
    """Calls `log` with the means over an interval, from a thread of its own, until `finish`.

    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL and its like set the interval, as they do for MLflow.
    """

    def __init__(self, run_id: str, *, tracking_uri: str, log: Callable[[Mapping[str, float]], None]) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._gauges = SystemMetricsMonitor(run_id, tracking_uri=tracking_uri)
        self._log = log
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="system-metrics")
        self._thread.start()

    def finish(self) -> None:
        self._ended.set()
        self._thread.join(1.0)  # a gauge may hang, and nothing is lost with it

    def _run(self) -> None:
        gauges = self._gauges
        prefix = f"{gauges.node_id}/" if gauges.node_id else ""
        while True:
            for _ in range(gauges.samples_before_logging):
                gauges.collect_metrics()
                if self._ended.wait(gauges.sampling_interval):
                    return
            self._log({prefix + name: value for name, value in gauges.aggregate_metrics().items()})
            for each in gauges.monitors:
                each.clear_metrics()
