"""Imports point one way, and reading a file needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "propscope"

# What a part of the package may import beside itself; inside functions too.
RECORDS = {"_version", "errors", "checks", "printable", "ranges"}
NETWORKS = RECORDS | {"records"}
THEORY = MEASURE = NETWORKS | {"networks"}
SPECTRA = MEASURE | {"measure", "theory"}
EXPERIMENTS = SPECTRA | {"spectra"}
FILES = RECORDS | {"records"}
REPORT = FILES | {"store", "comparison", "diagnosis"}
ALLOWED = {
    "_version": set(),
    "printable": set(),
    "errors": {"printable"},
    "checks": {"errors"},
    "ranges": {"errors"},
    "records": RECORDS,
    "networks": NETWORKS,
    "theory": THEORY,
    "measure": MEASURE,
    "spectra": SPECTRA,
    "experiments": EXPERIMENTS,
    "monitoring": MEASURE | {"measure", "store"},
    "integrations": MEASURE | {"measure", "store", "monitoring"},
    "store": FILES,
    "comparison": FILES,
    "diagnosis": FILES | {"comparison"},
    "remedies": EXPERIMENTS | {"experiments", "comparison", "diagnosis"},
    "report": REPORT,
    "plots": REPORT,
}
# The command line has no part in a trainer.
ALLOWED["cli"] = set(ALLOWED) - {"integrations"}
WITHOUT_TORCH = ("records", "store", "comparison", "diagnosis", "report", "plots")
# A record that is printed asks the report how it reads: the one way up, through one module, when it is printed.
DOOR, BEHIND = "records/display.py", "report"


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides where it points"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def parts_of(path: Path) -> set[str]:
    """The parts of the package that a module imports."""
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("propscope.")}
    return {name for name in used if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


def modules():
    """Every module but the public face, `__init__`, and what runs the command line."""
    outside = {PACKAGE / "__init__.py", PACKAGE / "__main__.py", PACKAGE / "_moved.py"}
    return sorted(set(PACKAGE.rglob("*.py")) - outside)


def home_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    home = home_of(path)
    above = parts_of(path) - ALLOWED[home] - {home}
    if path.relative_to(PACKAGE).as_posix() == DOOR:
        assert above == {BEHIND}, "the door leads to the report, and nowhere else"
    else:
        assert not above, f"{home} must not import {sorted(above)}"


def test_every_part_has_a_place_in_the_order():
    assert {home_of(path) for path in modules()} == set(ALLOWED)


def test_nothing_imports_a_trainer_but_the_module_for_it():
    users = {path for path in modules() if "integrations" in parts_of(path)}
    assert {home_of(path) for path in users} == {"integrations"}
    for package in ("lightning", "transformers", "accelerate"):
        importing = {path for path in modules() if package in {name.split(".")[0] for name in imports_of(path)}}
        assert importing == {PACKAGE / "integrations" / f"{package}.py"}


def test_torch_stays_where_it_is_needed():
    light = [path for path in modules() if home_of(path) in WITHOUT_TORCH]
    assert {home_of(path) for path in light} == set(WITHOUT_TORCH)
    assert not [path for path in light if "torch" in {name.split(".")[0] for name in imports_of(path)}]


def test_reading_and_drawing_load_no_torch():
    code = (
        "import sys, propscope, propscope.store, propscope.plots, propscope.diagnosis, propscope.report.display;"
        "import propscope.cli;"
        "propscope.load, propscope.save, propscope.ProfileSet, propscope.diagnose; propscope.cli.build();"
        "print(propscope.NetworkProfile(()));"
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_exist():
    import propscope

    for name in propscope.__all__:
        assert getattr(propscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        propscope.nonsense  # noqa: B018
    assert set(propscope.__all__) <= set(dir(propscope))


def spec_readers():
    """The modules that read a stored spec: `.spec` that is not called, or by name, or through `read_spec`."""
    direct, through = set(), set()
    for path in modules():
        tree = ast.parse(path.read_text())
        called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "spec" and node not in called:
                direct.add(where)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "attrgetter", "itemgetter"):
                direct |= {where for each in node.args if isinstance(each, ast.Constant) and each.value == "spec"}
            if isinstance(node, ast.Subscript) and getattr(node.slice, "value", None) == "spec":
                direct.add(where)
            if isinstance(node, ast.ImportFrom) and "read_spec" in {alias.name for alias in node.names}:
                through.add(where)
    return direct, through


@pytest.mark.slow
def test_one_function_reads_a_stored_spec_and_one_makes_a_network_of_it():
    direct, through = spec_readers()
    assert direct == {"records/stored_spec.py"}, "a spec from a file is data: read it with records.stored_spec"
    # Comparing what two specs say, asking for the epoch or the number of classes, and adding to a spec that was just
    # written, import and open nothing.
    asking = {"comparison/networks.py", "diagnosis/stage.py", "diagnosis/evidence.py"}
    readers = {"remedies/rebuild.py", "experiments/profiling.py", *asking}
    assert through == readers
