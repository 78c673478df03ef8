"""The sink `mlflow:EXPERIMENT`: metrics and, for alarms, tags of a run of MLflow."""

from __future__ import annotations

import re
import time
from typing import Any

from propscope.errors import MissingDependencyError
from propscope.monitoring.sinks.sink import Sites, alarm_text
from propscope.records.monitored import Alarm

# What a name may have in every version of MLflow; and how many metrics one call may bring, how long a tag may be.
_UNNAMED = re.compile(r"[^\w\-. /]", re.ASCII)
_METRICS, _TAG = 1000, 5000


class MlflowSink:
    """Logs each number as a metric of its key, and each alarm as a tag `propscope.alarm.STEP.KIND`.

    `experiment`: its name; it is made where it is missing. A run that is active in this thread is joined and stays so,
    else a new one is made, and ended at the end. In keys, characters that MLflow does not take become underscores. NaN
    and infinities are kept as far as its store has them. Raises `MissingDependencyError` without mlflow.
    """

    def __init__(self, experiment: str, *, sites: Sites = "worst") -> None:
        try:
            import mlflow
            from mlflow.entities import Metric
        except ImportError as error:
            raise MissingDependencyError(
                "mlflow-skinny", extra="mlflow", purpose=f"the sink mlflow:{experiment}"
            ) from error
        self.sites = sites
        self._metric = Metric
        # The functions of mlflow itself know a run in the thread alone that began it.
        self._client: Any = mlflow.MlflowClient()
        active = mlflow.active_run()
        self._own = active is None
        self._run = active.info.run_id if active is not None else self._begun(experiment)

    def _begun(self, experiment: str) -> str:
        found = self._client.get_experiment_by_name(experiment)
        identity = self._client.create_experiment(experiment) if found is None else found.experiment_id
        return str(self._client.create_run(identity).info.run_id)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the metrics of a sample."""
        now = int(time.time() * 1000)
        metrics = [self._metric(_UNNAMED.sub("_", key), value, now, step) for key, value in values.items()]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + _METRICS])

    def alarm(self, alarm: Alarm) -> None:
        """Set a tag."""
        key = _UNNAMED.sub("_", f"propscope.alarm.{alarm.step}.{alarm.kind}")
        self._client.set_tag(self._run, key, alarm_text(alarm)[:_TAG])

    def close(self) -> None:
        """End the run where it was begun here."""
        if self._own:
            self._client.set_terminated(self._run)
