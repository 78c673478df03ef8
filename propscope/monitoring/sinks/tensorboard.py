"""The sink `tensorboard:DIR`: scalars and, for alarms, text in event files."""

from __future__ import annotations

import os
from typing import Any

from propscope.errors import MissingDependencyError
from propscope.monitoring.sinks.sink import Sites
from propscope.records.monitored import Alarm


class TensorBoardSink:
    """Writes each number as a scalar of its key, and each alarm as text, so that TensorBoard shows them.

    `where`: a directory, or a SummaryWriter, which stays open. NaN and infinities are written as such. When a run is
    resumed, what the directory holds of the steps that are taken again is no longer shown. Raises
    `MissingDependencyError` without tensorboard.
    """

    def __init__(self, where: str | os.PathLike[str] | Any, *, sites: Sites = "worst") -> None:
        self.sites = sites
        self._directory = os.fspath(where) if isinstance(where, (str, os.PathLike)) else None
        self._writer: Any = None
        self._purge: int | None = None
        if self._directory is None:
            self._writer = where
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "tensorboard", extra="tensorboard", purpose=f"the sink tensorboard:{self._directory}"
            ) from error
        self._made = SummaryWriter

    def resume(self, step: int) -> None:
        """Hide what the directory holds from this step on."""
        self._purge = step
        if self._directory is not None and self._writer is not None:
            self._writer.close()
            self._writer = None

    def _opened(self) -> Any:
        if self._writer is None:
            # Only now is it known whether the run is resumed.
            self._writer = self._made(self._directory, purge_step=self._purge)
        return self._writer

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one scalar a number."""
        writer = self._opened()
        if self._directory is None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            return
        # One record for all of them takes a fifth of the time; the user's own writer may be of another package.
        from tensorboard.compat.proto.summary_pb2 import Summary

        one = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])
        writer.file_writer.add_summary(one, step)
        writer.flush()

    def alarm(self, alarm: Alarm) -> None:
        """Add a text under the key `alarm`."""
        self._opened().add_text("alarm", str(alarm), alarm.step)

    def close(self) -> None:
        """Close what was opened here; of a writer of the user's, write what waits."""
        if self._writer is not None:
            self._writer.flush() if self._directory is None else self._writer.close()
