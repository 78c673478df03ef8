"""No test passes without testing: nothing skips, returns or expects a failure in silence."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benches").glob("test_*.py")])


def own(function):
    """The nodes of a function without those of the functions and classes inside it."""
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def called(node):
    """The last name of what a call calls: `skip` for `pytest.skip(...)`; "" for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def checking(trees):
    """The names of the functions that check something themselves or call one that does."""
    found, calls_of = set(), {}
    for function in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            if isinstance(node, (ast.Assert, ast.Raise)) or called(node).startswith(("raises", "warns", "assert_")):
                found.add(function.name)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                calls_of.setdefault(function.name, set()).add(node.func.id)
    before = set()
    while found != before:
        before, found = found, found | {name for name, calls in calls_of.items() if calls & found}
    return found


def faults_of_test(test, checks):
    nodes = list(own(test))
    if any(isinstance(node, ast.Return) for node in nodes):
        yield "returns"
    if any(isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Pass) for node in nodes):
        yield "passes over an exception"
    if any(called(node) == "suppress" for node in nodes):
        yield "passes over an exception"
    if test.name not in checks:
        yield "checks nothing"


def faults_of_marks(tree):
    """What is wrong with skips, expected failures and ignored warnings, in marks and in calls."""
    nodes = list(ast.walk(tree))
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if not isinstance(node, ast.Attribute) or node.attr not in ("skip", "skipif", "xfail", "filterwarnings"):
            continue
        if ast.unparse(node.value) not in ("pytest", "pytest.mark"):
            continue
        is_mark, call = isinstance(node.value, ast.Attribute), calls.get(node)
        options = {one.arg: ast.unparse(one.value) for one in call.keywords} if call else {}
        first = bool(call and call.args) and node.attr != "skipif"
        if node.attr in ("skip", "skipif", "xfail") and not (options.get("reason", "''") != "''" or first):
            yield f"{node.lineno}: {node.attr} gives no reason"
        if node.attr == "xfail" and (not is_mark or options.get("strict", "True") != "True"):
            yield f"{node.lineno}: xfail is not strict"
        if node.attr == "filterwarnings" and any(ast.unparse(given) == "'ignore'" for given in call.args):
            yield f"{node.lineno}: ignores every warning"


def faults(sources):
    """What is wrong with test modules, given as {name: source}."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    checks = checking(trees.values())
    found = []
    for name, tree in trees.items():
        for owner in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
            collected = Path(name).name.startswith("test_") and getattr(owner, "name", "Test").startswith("Test")
            for test in owner.body:
                if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                    where = f"{name}:{test.lineno}: {test.name}"
                    found += [f"{where} {fault}" for fault in faults_of_test(test, checks)]
                    found += [] if collected else [f"{where} is not collected"]
        found += [f"{name}:{fault}" for fault in faults_of_marks(tree)]
    return found


@pytest.mark.slow
def test_no_test_passes_without_testing():
    assert len(SOURCES) > 100
    assert faults({str(path.relative_to(ROOT)): path.read_text() for path in SOURCES}) == []


@pytest.mark.parametrize(
    "source, said",
    [
        ("def test_a():\n if x: return\n assert y", ["1: test_a returns"]),
        ("def test_a():\n def f():\n  return 1\n assert f()", []),
        ("def test_a():\n try:\n  f()\n except E:\n  pass\n assert y", ["1: test_a passes over an exception"]),
        ("def test_a():\n with suppress(E):\n  f()\n assert y", ["1: test_a passes over an exception"]),
        ("def test_a():\n f()", ["1: test_a checks nothing"]),
        ("def test_a():\n f()\ndef f():\n g()\ndef g():\n assert x", []),
        ("def test_a():\n with pytest.raises(E):\n  f()", []),
        ("class Case:\n def test_a(self):\n  assert x", ["2: test_a is not collected"]),
        ("class TestCase:\n def test_a(self):\n  assert x", []),
        ("pytest.skip()", ["1: skip gives no reason"]),
        ("pytest.skip('this system has none')", []),
        ("mark = pytest.mark.skip", ["1: skip gives no reason"]),
        ("pytest.mark.skipif(x)", ["1: skipif gives no reason"]),
        ("pytest.mark.skipif(x, reason='')", ["1: skipif gives no reason"]),
        ("pytest.mark.skipif(x, reason='this torch has none')", []),
        ("pytest.mark.xfail(strict=True)", ["1: xfail gives no reason"]),
        ("pytest.mark.xfail(reason='a', strict=False)", ["1: xfail is not strict"]),
        ("pytest.xfail('a')", ["1: xfail is not strict"]),
        ("pytest.mark.xfail(reason='a')", []),
        ("pytest.mark.filterwarnings('ignore')", ["1: ignores every warning"]),
        ("pytest.mark.filterwarnings('ignore:a message')", []),
    ],
)
def test_the_faults_of_a_source(source, said):
    assert faults({"test_it.py": source}) == [f"test_it.py:{line}" for line in said]


def test_a_test_outside_the_files_of_tests_is_not_collected():
    assert faults({"models.py": "def test_a():\n assert x"}) == ["models.py:1: test_a is not collected"]


def test_every_expected_failure_is_strict(pytestconfig):
    assert pytestconfig.getini("xfail_strict") is True
    assert pytestconfig.getini("empty_parameter_set_mark") == "fail_at_collect"


MODULE_SKIPS = "import pytest\npytest.importorskip('no_such_package')\ndef test_a(): assert True\n"
TESTS_SKIP = """
import pytest

@pytest.mark.skipif(True, reason="needs no_such_package")
def test_by_mark(): assert True

def test_inside(): pytest.skip("the extension was not built")

@pytest.fixture
def absent(): pytest.skip("no fixture")

def test_by_fixture(absent): assert True

@pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.skip(reason="one case of two"))])
def test_by_parameter(x): assert True

@pytest.mark.skipif(True, reason="this system does not fork")
def test_system(): assert True

def test_torch(): pytest.skip("this torch has no fully_shard")

@pytest.mark.skipif(True, reason="this Python's exceptions have no notes")
def test_python(): assert True

@pytest.mark.xfail(reason="a known fault")
def test_known(): assert False
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, code, counts",
    [
        ((), 0, "1 passed, 8 skipped, 1 xfailed"),
        (("--no-skips",), 1, "1 failed, 1 passed, 3 skipped, 1 xfailed, 4 errors"),
        (("--no-skips", "-n", "1"), 1, "1 failed, 1 passed, 3 skipped, 1 xfailed, 4 errors"),
    ],
)
def test_under_no_skips_only_the_platform_may_skip(tmp_path, options, code, counts):
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_module.py").write_text(MODULE_SKIPS)
    (tmp_path / "test_tests.py").write_text(TESTS_SKIP)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", *options]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1].partition(" in ")[0]) == (code, counts), done.stdout
    for reason in ("needs no_such_", "the extension was not", "no fixture", "one case", "could not import"):
        assert (f"under --no-skips nothing may skip: Skipped: {reason}" in done.stdout) == bool(options), done.stdout
