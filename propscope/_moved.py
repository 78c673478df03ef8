"""Old public names: what moved since version 0.1.0 works for one more version, with a DeprecationWarning.

The tables are all there is to know. A module that moved is imported under its old name as a stand-in, whose
attributes are the objects of the new module, so that `isinstance`, `is` and old pickles hold. Nothing is imported
before an old name is used. The next version deletes this file and the line that calls `install`.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

# Old module -> new module. What lies in an old package and has no row of its own keeps its name in the new package.
MODULES = {
    "propscope.calibration": "propscope.remedies.calibration",
    "propscope.calibration.progress": "propscope.remedies.calibration.passes",
    "propscope.calibration.record": "propscope.records.calibration",
    "propscope.calibration.recurrent": "propscope.remedies.calibration.parts",
    "propscope.calibration.survey": "propscope.remedies.calibration.parts",
    "propscope.calibration.weights": "propscope.remedies.calibration.backup",
    "propscope.diagnosis.causes": "propscope.diagnosis.diagnose",
    "propscope.diagnosis.compare": "propscope.comparison.compare",
    "propscope.diagnosis.confidence": "propscope.diagnosis.evidence",
    "propscope.diagnosis.difference": "propscope.comparison.signal",
    "propscope.diagnosis.geometry": "propscope.diagnosis.collapse",
    "propscope.diagnosis.layers": "propscope.diagnosis.outlier_layers",
    "propscope.diagnosis.learning": "propscope.diagnosis.missing_gradients",
    "propscope.diagnosis.numbers": "propscope.diagnosis.nonfinite",
    "propscope.diagnosis.older_names": "propscope.comparison.sites",
    "propscope.diagnosis.pairing": "propscope.comparison.networks",
    "propscope.diagnosis.remedies": "propscope.diagnosis.advice",
    "propscope.diagnosis.structure": "propscope.diagnosis.architecture",
    "propscope.diagnosis.words": "propscope.report.diagnosis",
    "propscope.measure.coverage": "propscope.measure.recorder",
    "propscope.measure.device": "propscope.measure.device_accumulator",
    "propscope.measure.host": "propscope.measure.cpu_accumulator",
    "propscope.measure.jacobian_exact": "propscope.spectra.exact",
    "propscope.measure.jacobian_iterative": "propscope.spectra.iterative",
    "propscope.measure.jacobian_sites": "propscope.spectra.sites",
    "propscope.measure.jacobian_spectrum": "propscope.spectra.spectrum",
    "propscope.measure.jacobian_survey": "propscope.spectra.sites",
    "propscope.measure.jacobians": "propscope.spectra.jacobian",
    "propscope.measure.memory": "propscope.measure.arena",
    "propscope.measure.modules": "propscope.measure.module_info",
    "propscope.measure.places": "propscope.measure.module_info",
    "propscope.measure.scaling": "propscope.measure.loss_scale",
    "propscope.measure.seen": "propscope.measure.tensor_identity",
    "propscope.measure.summarize": "propscope.measure.profiler",
    "propscope.measure.tracking": "propscope.measure.profiler",
    "propscope.mending": "propscope.remedies",
    "propscope.mending.model": "propscope.remedies.apply",
    "propscope.mending.paths": "propscope.remedies.apply",
    "propscope.mending.record": "propscope.records.remedy_trials",
    "propscope.mending.remake": "propscope.remedies.rebuild",
    "propscope.mending.report": "propscope.report.remedies",
    "propscope.mending.verify": "propscope.remedies.rebuild",
    "propscope.networks.fills": "propscope.networks.initializers",
    "propscope.networks.initializer_table": "propscope.networks.initializers",
    "propscope.plots.callouts": "propscope.plots.map_labels",
    "propscope.plots.histogram_cells": "propscope.plots.histogram_grid",
    "propscope.plots.jacobian_panels": "propscope.plots.jacobian",
    "propscope.plots.lettering": "propscope.plots.fast_text",
    "propscope.plots.sheets": "propscope.plots.pages",
    "propscope.plots.tracks": "propscope.plots.depth_series",
    "propscope.plots.training_map_panels": "propscope.plots.training_map",
    "propscope.plots.verdicts": "propscope.plots.pages",
    "propscope.results": "propscope.records",
    "propscope.results.fields": "propscope.records.figures",
    "propscope.results.grid": "propscope.records.pair_summary",
    "propscope.results.inspection": "propscope.report.inspection",
    "propscope.results.layout": "propscope.report.profile_tables",
    "propscope.results.sparkline": "propscope.report.sparkline",
    "propscope.results.streams": "propscope.report.inspection",
    "propscope.results.table": "propscope.report.table",
    "propscope.results.terminal": "propscope.report.terminal",
    "propscope.results.training_grid": "propscope.records.training_summary",
    "propscope.results.training_layout": "propscope.report.training_tables",
    "propscope.results.training_rows": "propscope.records.rows",
    "propscope.results.tree": "propscope.report.tree",
    "propscope.results.verdict": "propscope.report.findings",
    "propscope.store.profile_reader": "propscope.store.read",
    "propscope.sweep": "propscope.experiments",
    "propscope.sweep.run": "propscope.experiments.profiling",
    "propscope.theory.chain": "propscope.theory.mlp_signal",
    "propscope.theory.chain_noise": "propscope.theory.layer_noise",
    "propscope.theory.chain_path": "propscope.theory.mlp_signal",
    "propscope.theory.chain_width": "propscope.theory.mlp_bands",
    "propscope.theory.correlation_path": "propscope.theory.propagation",
    "propscope.theory.hermite": "propscope.theory.correlation_kernel",
    "propscope.theory.kernel_rows": "propscope.theory.correlation_kernel",
    "propscope.theory.phase_chart": "propscope.theory.phase",
    "propscope.theory.pieces": "propscope.theory.piecewise",
    "propscope.theory.stream_noise": "propscope.theory.mlp_bands",
    "propscope.theory.tables": "propscope.theory.moment_tables",
    "propscope.theory.unit_moments": "propscope.theory.layer_noise",
    "propscope.theory.valid": "propscope.checks",
    "propscope.training": "propscope.experiments.training",
    "propscope.training.idx": "propscope.networks.idx",
    "propscope.training.run": "propscope.experiments.training.trainings",
    "propscope.training.sources": "propscope.experiments.training.data",
    "propscope.training.watch": "propscope.experiments.training.measurements",
    "propscope.experiments.training.processes": "propscope.experiments.engine.processes",
    "propscope.training.worker": "propscope.experiments.engine.processes",
    "propscope.training.workers": "propscope.experiments.engine.processes",
}

# Old object, under its old module -> new object. A row is needed where the object left its module or was renamed.
NAMES = {
    "propscope.calibration.Left": "propscope.records.calibration.SkippedWeight",
    "propscope.calibration.Scaled": "propscope.records.calibration.ScaledWeight",
    "propscope.calibration.record.Left": "propscope.records.calibration.SkippedWeight",
    "propscope.calibration.record.Scaled": "propscope.records.calibration.ScaledWeight",
    "propscope.diagnosis.words.explained": "propscope.report.diagnosis.diagnosis_text",
    "propscope.diagnosis.words.first_line": "propscope.report.findings.verdict_line",
    "propscope.measure.device.DeviceTensor": "propscope.measure.device_accumulator.DeviceAccumulator",
    "propscope.measure.host.HostTensor": "propscope.measure.cpu_accumulator.CpuAccumulator",
    "propscope.measure.jacobian": "propscope.spectra.jacobian",
    "propscope.measure.modules.FlatRegions": "propscope.measure.saturation.FlatRegions",
    "propscope.measure.places.Place": "propscope.measure.module_info.ModuleInfo",
    "propscope.measure.places.in_backward": "propscope.measure.hooks.in_backward",
    "propscope.measure.sampling.gram": "propscope.measure.geometry.gram",
    "propscope.measure.sampling.rows_in_memory": "propscope.measure.geometry.rows_in_memory",
    "propscope.measure.sampling.sample_rows": "propscope.measure.geometry.sample_rows",
    "propscope.measure.seen.Seen": "propscope.measure.tensor_identity.KnownTensor",
    "propscope.measure.seen.SeenTensors": "propscope.measure.tensor_identity.TensorIdentity",
    "propscope.measure.units.HostUnits": "propscope.measure.units.CpuUnits",
    "propscope.mending.Mending": "propscope.records.remedy_trials.RemedyTrials",
    "propscope.mending.carry_out": "propscope.remedies.apply.apply_remedy",
    "propscope.mending.mend": "propscope.remedies.apply.try_remedies",
    "propscope.mending.model.carry_out": "propscope.remedies.apply.apply_remedy",
    "propscope.mending.model.mend": "propscope.remedies.apply.try_remedies",
    "propscope.mending.record.Mending": "propscope.records.remedy_trials.RemedyTrials",
    "propscope.mending.report.mending_text": "propscope.report.remedies.trials_text",
    "propscope.networks.activations.Activation": "propscope.records.activations.Activation",
    "propscope.networks.randomness.stream": "propscope.networks.randomness.seeded_generator",
    "propscope.networks.stream": "propscope.networks.seeded_generator",
    "propscope.plots.callouts.Callout": "propscope.plots.map_labels.MapLabel",
    "propscope.plots.callouts.place": "propscope.plots.map_labels.place_labels",
    "propscope.plots.gallery.PLOTS": "propscope.plots.table.PLOTS",
    "propscope.plots.gallery.TRAINING_PLOTS": "propscope.plots.table.TRAINING_PLOTS",
    "propscope.plots.lettering.Lettering": "propscope.plots.fast_text.FastText",
    "propscope.plots.lettering.draw_lettering": "propscope.plots.fast_text.draw_texts",
    "propscope.plots.sheets.Sheet": "propscope.plots.pages.Page",
    "propscope.plots.sheets.sheets": "propscope.plots.pages.pages",
    "propscope.plots.tracks.Track": "propscope.plots.depth_series.DepthSeries",
    "propscope.plots.tracks.site_track": "propscope.plots.depth_series.site_series",
    "propscope.plots.tracks.weight_track": "propscope.plots.depth_series.weight_series",
    "propscope.results.gains.place_of": "propscope.records.gains.name_pattern",
    "propscope.results.precision.precision_table": "propscope.report.precision.precision_table",
    "propscope.results.table.number": "propscope.records.numerals.number",
    "propscope.results.table.percent": "propscope.records.numerals.percent",
    "propscope.results.verdict.GRID_NOTE": "propscope.report.profile_tables.GRID_NOTE",
    "propscope.theory.fixed_points.Stability": "propscope.records.theory.Stability",
    "propscope.training.sources.parse_source": "propscope.experiments.training.data.parse_data",
}

# Old object that has no successor -> why, and what to use. `from module import name` shows the reason as a warning.
REMOVED = {
    "propscope.store.load_run": "propscope.store.load opens a monitored run as fast; take its .steps and .alarms",
    "propscope.theory.FiniteWidth": "it was a check of the theory; the bands of propscope.theory.predict replace it",
    "propscope.theory.NormalizedMeanField": "it was a check of the theory; give propscope.theory.predict an MLPSpec "
    "with norm and residual",
    "propscope.theory.finite_width": "it was a check of the theory; the bands of propscope.theory.predict replace it",
    "propscope.theory.linear_batch_norm_factor": "it was a check of the theory; it is (batch - 2) / (batch - 3)",
    "propscope.theory.weight_variance_of": "use propscope.theory.layer_variances(...).weight_variance",
}


def new_module(old: str) -> str | None:
    """Return where a module of this old name is now, or None for a name that never moved."""
    if old in MODULES:
        return MODULES[old]
    package, _, leaf = old.rpartition(".")
    moved = new_module(package) if package else None
    return f"{moved}.{leaf}" if moved else None


def new_name(module: str, name: str) -> str | None:
    """Return where an object of an old module is now, as a dotted name, or None where no row speaks of it."""
    if f"{module}.{name}" in NAMES:
        return NAMES[f"{module}.{name}"]
    moved = new_module(module)
    return f"{moved}.{name}" if moved else None


def install() -> None:
    """Let the old names be imported; a second call changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # In front: a module that is still there, but lost a name, is found here before it is found as it is.
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Find the modules that moved, and those that lost a name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("propscope."):
            return None
        new = new_module(fullname)
        if new is None:
            return _with_old_names(fullname, path, target) if fullname in _LOST_A_NAME else None
        if not _exists(new):
            return None
        package, _, leaf = fullname.rpartition(".")
        # The old package's own warning said already where its modules are, save for those that went elsewhere.
        if new != f"{new_module(package)}.{leaf}":
            _warn(fullname, new, stacklevel=3)
        return ModuleSpec(fullname, _StandIn(), is_package=True)  # type: ignore[arg-type]


class _StandIn:
    """Load a module that moved as an empty one, which asks the new module for each attribute."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python to make the module."""

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _old_names(module)  # type: ignore[method-assign]


def _exists(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # What it is said to lie in is no package.
        return False


_LOST_A_NAME = {old.rpartition(".")[0] for old in (*NAMES, *REMOVED)}


def _with_old_names(fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    spec = PathFinder.find_spec(fullname, path, target)
    if spec is None or spec.loader is None:
        return None
    execute = spec.loader.exec_module

    def execute_and_extend(module: ModuleType) -> None:
        execute(module)
        module.__getattr__ = _old_names(module)  # type: ignore[method-assign]

    spec.loader.exec_module = execute_and_extend  # type: ignore[method-assign]
    return spec


def _old_names(module: ModuleType) -> Callable[[str], Any]:
    old = module.__name__

    def look_up(name: str) -> Any:
        if f"{old}.{name}" in REMOVED:
            reason = f"{old}.{name} was removed: {REMOVED[f'{old}.{name}']}"
            warnings.warn(reason, DeprecationWarning, stacklevel=2)
            raise AttributeError(reason)
        new = new_name(old, name)
        if new is None or (name.startswith("__") and name != "__all__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        home, _, attribute = new.rpartition(".")
        value = getattr(importlib.import_module(home), attribute)
        if f"{old}.{name}" in NAMES:
            _warn(f"{old}.{name}", new, stacklevel=3)
        # Kept, so that the next access is an ordinary one and warns no more.
        setattr(module, name, value)
        return value

    return look_up


def _warn(old: str, new: str, *, stacklevel: int) -> None:
    warnings.warn(
        f"{old} is now {new}; the old name goes with the next version", DeprecationWarning, stacklevel=stacklevel
    )
