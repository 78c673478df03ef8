"""Where the numbers and the alarms of a run are shown beside its file: TensorBoard, W&B, MLflow, CSV, JSON lines."""

from propscope.monitoring.sinks.delivery import Delivery
from propscope.monitoring.sinks.mlflow import MlflowSink
from propscope.monitoring.sinks.series import series_of
from propscope.monitoring.sinks.sink import Sink
from propscope.monitoring.sinks.table import KINDS, sinks_of
from propscope.monitoring.sinks.tensorboard import TensorBoardSink
from propscope.monitoring.sinks.text_files import CsvSink, JsonLinesSink
from propscope.monitoring.sinks.wandb import WandbSink

__all__ = [
    "KINDS",
    "CsvSink",
    "Delivery",
    "JsonLinesSink",
    "MlflowSink",
    "Sink",
    "TensorBoardSink",
    "WandbSink",
    "series_of",
    "sinks_of",
]
