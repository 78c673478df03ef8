"""Imports point one way, and reading a file needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "propscope"

# A package may import itself and those named here.
ALLOWED = {
    "errors": set(),
    "results": {"errors"},
    "networks": {"errors", "results"},
    "theory": {"errors", "results", "networks"},
    "measure": {"errors", "results", "networks", "diagnosis"},
    "sweep": {"errors", "results", "networks", "theory", "measure"},
    "training": {"errors", "results", "networks", "theory", "measure", "sweep"},
    "store": {"errors", "results"},
    "diagnosis": {"errors", "results"},
    "plots": {"errors", "results", "diagnosis"},
    "calibration": {"errors", "results", "networks", "measure"},
    "mending": {"errors", "results", "networks", "theory", "measure", "sweep", "diagnosis", "calibration"},
}
ALLOWED["cli"] = {*ALLOWED, "training"}
WITHOUT_TORCH = ("results", "store", "diagnosis", "plots")
# A record's own text says what is wrong with it: it may ask from above, when it is printed.
PRINTED = ("__str__", "_repr_html_")


def imports_of(path: Path) -> set[str]:
    found = set()
    tree = ast.parse(path.read_text())
    printed = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in PRINTED
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in printed:
            continue
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    home = path.relative_to(PACKAGE).parts[0]
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("propscope.") and name.count(".") >= 1}
    known = {name for name in used if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}
    assert known <= ALLOWED[home] | {home}, f"{home} must not import {sorted(known - ALLOWED[home] - {home})}"


def test_every_package_has_a_place_in_the_order():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} <= set(ALLOWED)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_stays_where_it_is_needed(path):
    home = path.relative_to(PACKAGE).parts[0]
    if home in WITHOUT_TORCH:
        assert not {name for name in imports_of(path) if name.split(".")[0] == "torch"}


def test_reading_and_drawing_load_no_torch():
    code = (
        "import sys, propscope, propscope.store, propscope.plots, propscope.diagnosis, propscope.results.layout;"
        "import propscope.cli;"
        "propscope.load, propscope.save, propscope.ProfileSet, propscope.diagnose; propscope.cli.build();"
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modules_stay_small():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: lines for name, lines in long.items() if lines > 260} == {}


def test_public_names_exist():
    import propscope

    for name in propscope.__all__:
        assert getattr(propscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        propscope.nonsense  # noqa: B018
    assert set(propscope.__all__) <= set(dir(propscope))
