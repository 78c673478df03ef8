"""What `check` and `compare` are given: a result file with profiles, or a target whose model is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from propscope.cli.loudness import timed
from propscope.cli.options import Selection
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.cli.model_runs import RunRequest
    from propscope.records import ProfileSet

_FILE_ENDINGS = (".h5", ".hdf5", ".propscope")


def is_file(what: str) -> bool:
    """Return whether what was typed is a result file and no target; raises `InputError` where it is neither."""
    path = Path(what)
    if path.suffix in _FILE_ENDINGS or (path.is_file() and path.suffix != ".py"):
        return True
    if ":" not in what:
        raise InputError(
            f'"{what}" is neither a result file nor a target',
            hint="a result file ends in .h5; a target is package.module:callable or path/to/file.py:callable",
        )
    return False


def loaded(file: Path, selection: Selection) -> ProfileSet:
    """Return the profiles of a file; raises `InputError` for one of training runs and for one with nothing to judge."""
    from propscope.records import MonitoredRun, TrainingSet

    profiles = selection.load(file)
    writes = "propscope profile --output FILE and propscope inspect TARGET --output FILE write profiles"
    if isinstance(profiles, TrainingSet):
        raise InputError(f"{file} holds training runs of a grid, not profiles", hint=writes)
    if isinstance(profiles, MonitoredRun):
        return profiles
    if not len(profiles):
        raise InputError(f"{file} holds no profiles", hint=writes)
    if not any(profile.without_inputs.sites for profile in profiles):
        raise InputError(f"no profile in {file} has a recorded site, so nothing can be judged", hint=writes)
    return profiles


def seeds_of(recorded: ProfileSet | None, usual: int) -> int:
    """Return as many seeds as a set has of one network, so that each is compared with itself; `usual` without a set."""
    return usual if recorded is None else max(map(len, recorded.groups("seed").values()))


def run_target(request: RunRequest) -> tuple[ProfileSet, str]:
    """Return the profiles of a target and what ran, in words; raises `InputError` when the model stops."""
    from propscope.cli.model_runs import run_model

    with timed(f"running {request.target}"):
        outcome = run_model(request)
    if outcome.stopped is not None:
        raise InputError(outcome.stopped, hint=outcome.hint)
    if not any(profile.without_inputs.sites for profile in outcome.profiles):
        from propscope.diagnosis import diagnose

        raise InputError(
            f"{diagnose(outcome.profiles).unmeasured}, so nothing can be judged",
            hint="give the model itself, not a scripted one, and check the patterns of --include and --exclude",
        )
    return outcome.profiles, outcome.headline
