"""A trainer's package is imported by its own module alone, and named where it is missing."""

import importlib
import subprocess
import sys

import pytest

from propscope.errors import MissingDependencyError

PACKAGES = {
    "lightning": ("lightning", "lightning.pytorch", "pytorch_lightning"),
    "transformers": ("transformers",),
    "accelerate": ("accelerate",),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name):
    module = f"propscope.integrations.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for package in PACKAGES[name]:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"{module} needs {name}, which is not installed") as caught:
        importlib.import_module(module)
    assert caught.value.hint == f"pip install 'propscope[{name}]'"


def test_none_is_imported_with_propscope():
    code = (
        "import sys, propscope, propscope.integrations; propscope.monitor;"
        f"print(sorted({{name.split('.')[0] for name in sys.modules}} & {set(sum(PACKAGES.values(), ()))!r}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
