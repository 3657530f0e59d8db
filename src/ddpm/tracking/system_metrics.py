"""The load of this machine during a run.

MLflow's monitors are used without its thread, which stops at the first error of the store and at its end waits for a
store that does not answer.
"""

import threading
from collections.abc import Callable, Mapping


class SystemMetrics:
    """A thread that calls `log` with the means over each interval until `finish`.

    MLflow's variables (MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL, …) set the interval.
    """

    def __init__(self, run_id: str, *, tracking_uri: str, log: Callable[[Mapping[str, float]], None]) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(run_id, tracking_uri=tracking_uri)
        self._log = log
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="system-metrics")
        self._thread.start()

    def finish(self) -> None:
        self._ended.set()
        self._thread.join(1.0)  # a monitor may hang; the thread is a daemon, so the process can end without it

    def _run(self) -> None:
        monitor = self._monitor
        prefix = f"{monitor.node_id}/" if monitor.node_id else ""
        while True:
            for _ in range(monitor.samples_before_logging):
                monitor.collect_metrics()
                if self._ended.wait(monitor.sampling_interval):
                    return
            self._log({prefix + name: value for name, value in monitor.aggregate_metrics().items()})
            for each in monitor.monitors:
                each.clear_metrics()
