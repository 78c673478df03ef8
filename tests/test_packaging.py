"""What is built from the source: the archive and the wheel, installed into an environment of their own."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1]
# What a checkout has of its own, or a test leaves there.
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "build", "dist", "outputs", "*.egg-info", "*.so", ".*_cache")

PIP = sys.executable, "-m", "pip"

pytestmark = pytest.mark.slow


def run(*line, **options):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The archive of the source, and the wheel that pip builds from it."""
    place = tmp_path_factory.mktemp("packaging")
    shutil.copytree(SOURCE, place / "source", ignore=NOT_COPIED)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(place)!r})"
    run(sys.executable, "-c", build, cwd=place / "source")
    (archive,) = place.glob("*.tar.gz")
    # With the setuptools of this environment: nothing is downloaded.
    run(*PIP, "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", place, archive)
    (wheel,) = place.glob("*.whl")
    return archive, wheel


def test_the_wheel_has_the_package_and_no_sources_of_the_kernel(built):
    with zipfile.ZipFile(built[1]) as held:
        names = {name for name in held.namelist() if ".dist-info/" not in name}
    expected = {str(path.relative_to(SOURCE)) for path in (SOURCE / "propscope").rglob("*.py")}
    expected |= {f"propscope/examples/{path.name}" for path in (SOURCE / "examples").glob("*.py")}
    assert {name for name in names if name.endswith(".py")} == expected
    others = {name for name in names if not name.endswith((".py", ".so", ".pyd"))}
    page = {f"propscope/report/page/page.{ending}" for ending in ("html", "css", "js")}
    assert others == {"propscope/py.typed", "propscope/measure/_kernel.pyi", *page}


def test_the_archive_has_what_the_wheel_is_built_from(built):
    with tarfile.open(built[0]) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE", "propscope/measure/_kernel.c"} <= names
    assert {str(path.relative_to(SOURCE)) for path in (SOURCE / "propscope").rglob("*.py")} <= names
    assert {str(path.relative_to(SOURCE)) for path in (SOURCE / "propscope/report/page").glob("page.*")} <= names


def test_it_installs_into_an_empty_environment_and_runs(built, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # Installing an archive builds a wheel of it, as `built` does, and installs that.
    run(*PIP, f"--python={python}", "install", "--quiet", "--no-deps", "--no-index", built[1])
    # What it depends on is that of this environment; propscope itself must come from the other one.
    (installed,) = (tmp_path / "env").rglob("propscope/__init__.py")
    others = os.pathsep.join([str(installed.parents[1]), *(path for path in sys.path if "site-packages" in path)])
    environment = {**os.environ, "PYTHONPATH": others}
    where = run(python, "-c", "import propscope; print(propscope.__file__)", cwd=tmp_path, env=environment)
    assert Path(where.strip()) == installed
    line = ("profile", "--depth", 3, "--width", 8, "--batch", 8, "--seeds", 1, "--plots", "none")
    shown = run(python, "-m", "propscope", *line, cwd=tmp_path, env=environment)
    assert "he_normal" in shown
    assert "ten_layers" in run(python, "-m", "propscope", "example", cwd=tmp_path, env=environment)
