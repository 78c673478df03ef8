"""The sink `mlflow:EXPERIMENT`: metrics and, for alarms, tags of a run of MLflow."""

from __future__ import annotations

import re
import time
from typing import Any

from propscope.errors import MissingDependencyError
from propscope.monitoring.sinks.sink import Sites
from propscope.records.monitored import Alarm

# What a name may have in every version of MLflow; and how many metrics one call may bring, how long a tag may be.
_UNNAMED = re.compile(r"[^\w\-. /]", re.ASCII)
_METRICS, _TAG = 1000, 5000


class MlflowSink:
    """Logs each number as a metric of its key, and each alarm as a tag `propscope.alarm.STEP.KIND`.

    `run`: a run that is active, which stays so. In keys, characters that MLflow does not take become underscores. NaN
    and infinities are kept as far as its store has them.
    """

    def __init__(self, run: Any, *, sites: Sites = "worst", _own: bool = False) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self.sites = sites
        self._own, self._run, self._metric = _own, run.info.run_id, Metric
        # The functions of mlflow itself know a run in the thread alone that began it.
        self._client: Any = MlflowClient()

    @classmethod
    def opened(cls, experiment: str, *, sites: Sites = "worst") -> MlflowSink:
        """Return the sink of the run that is active in this thread, else of a new one in the experiment of this name.

        The experiment is made where it is missing. Raises `MissingDependencyError` without mlflow.
        """
        try:
            import mlflow
        except ImportError as error:
            purpose = f"the sink mlflow:{experiment}"
            raise MissingDependencyError("mlflow-skinny", extra="mlflow", purpose=purpose) from error
        if (active := mlflow.active_run()) is not None:
            return cls(active, sites=sites)
        client = mlflow.MlflowClient()
        found = client.get_experiment_by_name(experiment)
        identity = client.create_experiment(experiment) if found is None else found.experiment_id
        return cls(client.create_run(identity), sites=sites, _own=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the metrics of a sample."""
        now = int(time.time() * 1000)
        metrics = [self._metric(_UNNAMED.sub("_", key), value, now, step) for key, value in values.items()]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + _METRICS])

    def alarm(self, alarm: Alarm) -> None:
        """Set a tag."""
        key = _UNNAMED.sub("_", f"propscope.alarm.{alarm.step}.{alarm.kind}")
        self._client.set_tag(self._run, key, str(alarm)[:_TAG])

    def close(self) -> None:
        """End the run where it was begun here."""
        if self._own:
            self._client.set_terminated(self._run)
