"""Each block of Python and each propscope line of README.md, CONTRIBUTING.md and docs/ is run as it stands, but small.

What would take minutes, another program or another machine is parsed alone; the tables below give the reason.
"""

import itertools
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import typer
from building.snippets import DOCS
from site_pages.contents import GENERATED
from torch import nn

import propscope
from propscope.cli import build, main
from propscope.experiments import grid
from propscope.monitoring import Monitor

ROOT = DOCS.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in GENERATED),
]
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)

# How a block of Python begins that is compiled alone -> why.
COMPILED = {
    "# cluster.py": "needs Slurm",
    "with propscope.track(model, group=": "needs several processes; tests/distributed has them",
}
# The pages whose blocks other tests run, each with what its sentences promise.
RUN_BY = {"trainers.md": "tests/integrations"}

# Which line is parsed alone -> why.
PARSED = {
    r"^(watch|control) ": "follows a training that goes on; tests/cli/test_watch.py, tests/monitoring/test_control.py",
    r"^example ": "runs for minutes; tests/test_examples.py runs all of them",
    r" (timm|torchvision):": "needs a library of models; tests/networks/test_libraries.py",
    r" dask:": "needs a cluster; tests/experiments/engine/test_cluster.py",
    r"^compact ": "needs a run that was killed; tests/cli/test_compact.py",
}
# What is added to a command, so that it takes little time and writes over what the page wrote before.
ADDED = {
    "profile": "--seeds 1 --plots none --workers 1 --overwrite",
    "train": "--seeds 1 --epochs 1 --plots none --workers 1 --overwrite",
    "inspect": "--overwrite",
    "phase": "--overwrite",
    "plot": "--overwrite",
    "report": "--overwrite",
    "width-check": "--seeds 2 --steps 1 --overwrite",
}
# Where it writes if the line does not say.
OUTPUT = {"profile": ["-o", "new.h5"], "train": ["-o", "new.h5"]}
# What stands in backticks behind the name of the program, and is no command.
NO_COMMAND = {"seal 1": "the first words of a seal"}
# What stands for a name of the reader's own.
NAMES = {"FILE": "run.h5", "TARGET": "examples/models.py:sigmoid_net --input-shape 8,128", "RUN": "run.propscope"}


def blocks(page):
    return [(language, body) for _, language, body in FENCED.findall(page.read_text(encoding="utf-8"))]


def python_of(page):
    return [body for language, body in blocks(page) if language == "python"]


def lines_of(page):
    """The command lines of a page, without `propscope`: those of its blocks, and those that stand in a sentence."""
    text = page.read_text(encoding="utf-8")
    typed = [
        re.sub(r"\s+# .*", "", line).strip()
        for language, body in blocks(page)
        if language in ("", "sh", "bash", "console")
        for line in body.replace("\\\n", " ").splitlines()
    ]
    found = [match[1] or "" for line in typed if (match := re.match(r"(?:\$ )?propscope(?: (.*))?$", line))]
    found += [" ".join(spoken.split()) for spoken in re.findall(r"`propscope ([^`]+)`", FENCED.sub("", text))]
    return [line for line in found if "..." not in line and line not in NO_COMMAND]


def shown_after(page, command):
    """The lines of a command in each block of a page that has no others, with the block behind it, which it prints."""
    found = []
    for (language, body), (_, shown) in itertools.pairwise(blocks(page)):
        lines = body.replace("\\\n", " ").splitlines()
        if language == "" and all(line.startswith(f"propscope {command} ") for line in lines):
            found.append(([line.removeprefix("propscope ") for line in lines], shown))
    return [(lines, shown) for lines, shown in found if "propscope" not in shown.partition("\n")[0]]


def without_numbers(line):
    return re.sub(r"-?\d[\d.]*(e-?\d+)?", "#", line.rstrip())


def words_of(line):
    return shlex.split(re.sub(r"\b[A-Z]{3,}\b", lambda name: NAMES.get(name[0], name[0]), line))


def command_of(name):
    commands = typer.main.get_command(build()).commands
    assert name in commands, f"there is no command {name!r}"
    return commands[name]


WITH_PYTHON = [page for page in PAGES if python_of(page) and page.name not in RUN_BY]
WITH_LINES = [page for page in PAGES if lines_of(page)]


def ids(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What lies where a reader works: a result file, its page, and the file of a monitored run."""
    folder = tmp_path_factory.mktemp("files")
    profiles = propscope.profile_mlp(3, 8, activation="relu", initializer=["he_normal", "default"], seeds=2, batch=8)
    propscope.save(folder / "run.h5", profiles)
    (folder / "run.html").write_text(profiles.to_html(), encoding="utf-8")
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with propscope.monitor(model, optimizer, every=50, file=folder / "run.propscope") as monitor:
        for number in range(201):
            with monitor.step(number):
                model(torch.ones(4, 8)).sum().backward()
                optimizer.step()
    shutil.copy(folder / "run.propscope", folder / "monitored.h5")
    return folder


@pytest.fixture
def place(tmp_path, files, monkeypatch):
    """A directory like the reader's, where a grid has the first and the last value of each axis, and small networks."""
    place = shutil.copytree(files, tmp_path / "place")
    (place / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(place)
    monkeypatch.setattr("propscope.cli.progress.EVERY", math.inf)
    read = grid.read_axis

    def read_few(name, value):
        values = read(name, value)
        return {"width": (8,), "batch": (8,)}.get(name, tuple(dict.fromkeys((values[0], values[-1]))))

    monkeypatch.setattr(grid, "read_axis", read_few)
    return place


class Net(nn.Sequential):
    """A model of the reader's own."""

    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, width), nn.ReLU())
        self.head = nn.Linear(width, 2)


def readers_names():
    """What a block uses without saying where it comes from: a model, its data, its loss and its optimizer."""
    torch.manual_seed(0)
    model = Net()
    x, y = torch.randn(16, 8), torch.randint(2, (16,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    loss_fn = nn.CrossEntropyLoss()

    def train_step(batch):
        optimizer.zero_grad()
        loss = loss_fn(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.detach()

    profile = propscope.profile(model, x)
    loader = [(x, y)] * 3
    batch, loss, loss_of, bins = x, loss_fn, loss_fn, profile.sites[1].forward.histogram.bins
    return {**globals(), **locals()}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=ids)
def test_the_python_of_a_page_runs(page, place, capsys):
    names = readers_names()
    for number, body in enumerate(python_of(page)):
        code = compile(body, f"{ids(page)}, block {number}", "exec")
        if not any(body.startswith(start) for start in COMPILED):
            if 'save("run.h5"' in body:
                Path("run.h5").unlink()
            exec(code, names)
        # A model has one monitor at a time.
        if isinstance(names.get("monitor"), Monitor):
            names["monitor"].close()


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_LINES, ids=ids)
def test_the_command_lines_of_a_page_run(page, place, capsys):
    for line in lines_of(page):
        name, *words = words_of(line) or ["--help"]
        if name.startswith("-"):
            assert main([name]) == 0
            continue
        command = command_of(name)
        if not words and name not in ("list", "profile", "train"):
            # The command is named, and no line of it given.
            continue
        command.make_context(name, list(words))
        if any(re.search(pattern, line) for pattern in PARSED):
            continue
        code = main([name, *OUTPUT.get(name, ()), *words, *shlex.split(ADDED.get(name, ""))])
        said = capsys.readouterr()
        # A check, and what tries remedies, may say no by 1; 2 is a line that is wrong.
        assert code in (0, 1), f"propscope {line}: {said.err}"
        assert "Traceback" not in said.err


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if shown_after(page, "inspect")], ids=ids)
def test_what_inspect_prints_is_what_a_page_shows(page, place, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    for lines, shown in shown_after(page, "inspect"):
        for line in lines:
            assert main(shlex.split(line)) == 0
        # The last digits are the processor's.
        said, expected = (set(map(without_numbers, text.splitlines())) for text in (capsys.readouterr().out, shown))
        assert expected - {"", "..."} <= said


@pytest.mark.parametrize("page", RUN_BY)
def test_what_runs_elsewhere_runs_there(page):
    # `snippets(page, heading)` takes the blocks below a heading.
    text = (DOCS / page).read_text(encoding="utf-8")
    headings = {part.partition("\n")[0] for part in text.split("\n## ")[1:] if "```python" in part}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / RUN_BY[page]).glob("test_*.py"))
    assert headings == set(re.findall(rf'snippets\("{page}", "(.*?)"\)', sources))


@pytest.mark.parametrize("start", COMPILED)
def test_what_is_compiled_alone_is_still_there(start):
    assert any(body.startswith(start) for page in PAGES for body in python_of(page))


@pytest.mark.parametrize("pattern", PARSED)
def test_what_is_parsed_alone_is_still_there(pattern):
    assert any(re.search(pattern, line) for page in PAGES for line in lines_of(page))
