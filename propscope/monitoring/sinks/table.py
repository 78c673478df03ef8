"""The sinks by name, and `sinks_of`, which makes those that a user names or passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from propscope.checks import one_of, shown
from propscope.errors import InputError, PropscopeError, error_line, unknown_name
from propscope.monitoring.sinks.mlflow import MlflowSink
from propscope.monitoring.sinks.sink import Sink
from propscope.monitoring.sinks.tensorboard import TensorBoardSink
from propscope.monitoring.sinks.text_files import CsvSink, JsonLinesSink
from propscope.monitoring.sinks.wandb import WandbSink


@dataclass(frozen=True, slots=True)
class SinkKind:
    """A sink that text names, `name:target`; `make` opens it for a target."""

    name: str
    target: str
    make: Callable[..., Sink]


KINDS = (
    SinkKind("tensorboard", "DIR", TensorBoardSink),
    SinkKind("wandb", "PROJECT[/NAME]", WandbSink.opened),
    SinkKind("mlflow", "EXPERIMENT", MlflowSink.opened),
    SinkKind("csv", "PATH", lambda target, *, sites: CsvSink(Path(target), sites=sites)),
    SinkKind("jsonl", "PATH", lambda target, *, sites: JsonLinesSink(Path(target), sites=sites)),
)
_SITES = ":sites="
_VALID = (
    'text such as "tensorboard:runs/x", a SummaryWriter, a run of wandb or mlflow, or an object with '
    "write(step, values) and alarm(alarm)"
)


def sinks_of(given: Any) -> dict[str, Sink]:
    """Return the sinks that a user names or passes, by their names in messages; raises `InputError` for any other.

    Where one cannot be opened, those that were opened before are closed.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str) and not _is_sink(given)
    found: dict[str, Sink] = {}
    with ExitStack() as opened:
        for one in given if several else [given]:
            name, sink = _opened(one) if isinstance(one, str) else _wrapped(one)
            if isinstance(one, str) and (close := getattr(sink, "close", None)) is not None:
                opened.callback(close)
            # The same class may be there twice.
            found[name if name not in found else f"{name} ({len(found) + 1})"] = sink
        opened.pop_all()
    return found


def _opened(text: str) -> tuple[str, Sink]:
    kinds = {kind.name: kind for kind in KINDS}
    name, _, rest = text.partition(":")
    if name not in kinds:
        raise unknown_name("sink", name, kinds, hint='sinks=["tensorboard:runs/x"]')
    kind = kinds[name]
    target, _, value = rest.rpartition(_SITES) if _SITES in rest else (rest, "", "worst")
    if not target:
        raise InputError(f"the sink {name} must be {name}:{kind.target}, got {shown(text)}")
    sites = one_of(f"sites of the sink {name}", value, ("worst", "all"))
    try:
        return text, kind.make(target, sites=sites)
    except PropscopeError:
        raise
    except Exception as error:
        raise InputError(
            f"the sink {text} cannot be opened: {error_line(error)}", hint="leave it out of `sinks`, or mend that first"
        ) from error


def _wrapped(given: Any) -> tuple[str, Sink]:
    name = type(given).__name__
    if not isinstance(given, type):
        if _is_sink(given):
            one_of(f"sites of the sink {name}", getattr(given, "sites", "worst"), ("worst", "all"))
            return name, given
        if _has(given, "add_scalar", "add_text"):
            return name, TensorBoardSink(given)
        if _has(given, "define_metric", "log", "alert") and hasattr(given, "step"):
            return name, WandbSink(given)
        if hasattr(getattr(given, "info", None), "run_id"):
            return name, MlflowSink(given)
    raise InputError(f"sinks must be {_VALID}, got {shown(given)}")


def _is_sink(given: Any) -> bool:
    return _has(given, "write", "alarm")


def _has(given: Any, *methods: str) -> bool:
    return all(callable(getattr(given, name, None)) for name in methods)
