"""Names that moved: each old one gives the object of the new one, and says once where it is."""

import importlib
import pickle
import subprocess
import sys

import pytest

from propscope._moved import MODULES, NAMES, REMOVED, new_module, new_name

# What the packages offered, by their own `__all__`, in version 0.1.0.
OFFERED = {
    "propscope.calibration": "Calibration Left Scaled calibrate",
    "propscope.diagnosis": "Diagnosis Finding Remedy diagnose",
    "propscope.measure": "Options Recorder jacobian profile summary track",
    "propscope.mending": "Mending State Trial carry_out centre mend verify",
    "propscope.networks": "ACTIVATIONS INITIALIZERS INPUTS MLP SCALES SQUARE_DEFAULTS Activation ActivationSpec Add "
    "Erf FunctionActivation Initializer InitializerSpec InputBatch InputSource Layer MLPSpec "
    "ParsedSpec ResidualLayer Sin SpecParameter default_features global_stream initialize_ "
    "make_input parse_activation parse_initializer parse_spec parse_width split_list stream",
    "propscope.plots": "DPI FORMATS PLOTS TRAINING_PLOTS Header Plot draw_all draw_header line_style styled "
    "write_figure",
    "propscope.results": "CoverageNote Diagnosis Expected Finding LogHistogram NetworkProfile Parameter ProfileSet "
    "Provenance Remedy Site TensorSummary TrainingRun TrainingSet",
    "propscope.store": "SCHEMA_VERSION check_target load load_profiles merge save",
    "propscope.sweep": "LOSSES Grid make_grid profile_mlp run",
    "propscope.theory": "ActivationLike CriticalLine CriticalPoint DepthScales Elementwise FiniteWidth FixedPoint Law "
    "LayerVariances MeanField NoCriticalPoint NormalizedMeanField PhaseDiagram Propagation "
    "critical_initializer critical_line critical_point finite_width gain layer_variances "
    "linear_batch_norm_factor phase_diagram predict weight_variance_of",
    "propscope.training": "DATA OPTIMIZERS DataSource OptimizerKind TrainingData TrainingPlan collect finish make_data "
    "make_plan run train_mlp",
}

ignoring_old_names = pytest.mark.filterwarnings("ignore:propscope.* is now:DeprecationWarning")


@pytest.fixture(scope="module")
def without_need():
    """The old names that their module still has by itself."""
    split = {old: old.rpartition(".") for old in NAMES}
    return {
        old
        for old, (module, _, name) in split.items()
        if new_module(module) is None and name in vars(importlib.import_module(module))
    }


@pytest.fixture(autouse=True)
def _each_test_imports_anew(without_need):
    """Forget the old names that another test used, since each warns once a process."""
    for module in [name for name in sys.modules if name.startswith("propscope.") and new_module(name)]:
        del sys.modules[module]
    for old in NAMES.keys() - without_need:
        module, _, name = old.rpartition(".")
        if module in sys.modules:
            vars(sys.modules[module]).pop(name, None)


def test_every_row_is_needed(without_need):
    assert without_need == set()


def found(dotted: str):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


@ignoring_old_names
@pytest.mark.parametrize("old", MODULES)
def test_a_module_that_moved_is_found_under_its_old_name(old):
    new = importlib.import_module(MODULES[old])
    assert MODULES[old] not in MODULES, "a row points straight at the module, not at another old name"
    module = importlib.import_module(old)
    for name in (name for name in vars(new) if not name.startswith("_")):
        assert getattr(module, name) is getattr(new, name)
    with pytest.raises(AttributeError, match="nonsense"):
        module.nonsense  # noqa: B018


@ignoring_old_names
@pytest.mark.parametrize("old", NAMES)
def test_a_name_that_moved_is_the_same_object(old):
    with pytest.warns(DeprecationWarning, match=f"{old} is now {NAMES[old]}"):
        assert found(old) is found(NAMES[old])


@ignoring_old_names
@pytest.mark.parametrize(
    "old",
    sorted({f"{module}.{name}" for module, names in OFFERED.items() for name in names.split()} - REMOVED.keys()),
)
def test_everything_that_was_offered_is_still_there(old):
    assert found(old) is not None


def test_a_module_warns_once_and_names_the_new_one():
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    import propscope.results\n"
        "    from propscope.results import NetworkProfile\n"
        "    from propscope.results.gains import site_gains\n"
        "    import propscope.results.gains\n"
        "from propscope import records\n"
        "assert NetworkProfile is records.NetworkProfile\n"
        "assert 'torch' not in __import__('sys').modules\n"
        "print([(str(each.message), each.filename) for each in seen])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(shown) == [
        ("propscope.results is now propscope.records; the old name goes with the next version", "<string>")
    ]


def test_a_renamed_object_warns_once():
    from propscope.networks import seeded_generator

    with pytest.warns(DeprecationWarning, match=r"networks\.stream is now propscope\.networks\.seeded") as seen:
        from propscope.networks import stream
    assert len(seen) == 1
    assert seen[0].filename == __file__
    from propscope.networks import stream as again

    assert stream is again is seeded_generator


def test_a_name_without_a_successor_says_why(monkeypatch):
    monkeypatch.setitem(REMOVED, "propscope.networks.folding", "fold the weights yourself")
    with pytest.warns(DeprecationWarning, match="fold the weights"), pytest.raises(ImportError):
        exec("from propscope.networks import folding")
    with pytest.warns(DeprecationWarning, match="fold"), pytest.raises(AttributeError, match=r"networks\.folding was"):
        found("propscope.networks.folding")


def test_what_was_removed_is_gone():
    for old in REMOVED:
        with pytest.warns(DeprecationWarning, match=old), pytest.raises(AttributeError, match=old):
            found(old)


def test_a_field_that_was_renamed_warns():
    from propscope.records.calibration import Calibration, SkippedWeight

    record = Calibration((), (SkippedWeight("0", "Linear", "shared"),), 1, 0)
    with pytest.warns(DeprecationWarning, match=r"left is now Calibration\.skipped"):
        assert record.left is record.skipped


@ignoring_old_names
def test_an_old_pickle_is_read():
    from propscope.records import TensorSummary

    summary = TensorSummary(1, 2.0, 0.0, 2.0, 2.0, 0.0)
    written = pickle.dumps(summary, protocol=0)
    old = written.replace(b"propscope.records.summary", b"propscope.results.summary")
    assert old != written
    assert pickle.loads(old) == summary


@ignoring_old_names
def test_what_never_existed_is_not_found():
    assert new_module("propscope.records") is None
    assert new_name("propscope.records", "NetworkProfile") is None
    with pytest.raises(ModuleNotFoundError, match=r"propscope\.results\.nonsense"):
        importlib.import_module("propscope.results.nonsense")
    with pytest.raises(ImportError, match="nonsense"):
        exec("from propscope.results import nonsense")


def test_old_names_load_nothing_until_they_are_used():
    code = "import sys, propscope; print(sorted(name for name in sys.modules if name.startswith('propscope')))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(shown) == ["propscope", "propscope._moved", "propscope._version"]
