"""The pages of the site that are made from the code, and its table of contents; `make docs` builds all of it."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import typer
from site_pages import commands, contents, examples, reference

from propscope.cli import COMMANDS, build
from propscope.cli.example import example_files, examples_folder
from propscope.plots import MONITORED_PLOTS, PLOTS, TRAINING_PLOTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def command_pages():
    return commands.pages()


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_a_command_has_a_page_with_every_option_that_its_help_lists(command_pages, name):
    command = typer.main.get_command(build(name)).commands[name]
    context = command.make_context(name, [], resilient_parsing=True)
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    assert records
    listed = re.findall(r"^\| `(.*?)` \|", command_pages[name], re.MULTILINE)
    assert sorted(listed) == sorted(flags.replace("|", "\\|") for flags, _ in records)
    assert f"[{name}]({name}.md)" in command_pages["index"]


def test_what_markdown_reads_as_markup_stays_as_it_is_typed():
    assert commands.plain("sigma_w^2 <= [1] `a_b` *x*") == "sigma\\_w^2 \\<= \\[1\\] `a_b` \\*x\\*"
    lines = ["Return W (out, *kernel) of `a*b`, x_ and |x|."]
    reference.as_written(None, "function", "", None, None, lines)
    assert lines == ["Return W (out, \\*kernel) of ``a*b``, x\\_ and \\|x\\|.", ""]


def test_each_argument_of_a_docstring_has_a_line_of_its_own():
    lines = [
        "Return it.",
        "",
        "`depth`: layers. All of",
        "them. `low`, `high`: ends, as `depth`: no. `x`: it.",
        "",
        "Raises.",
    ]
    reference.as_written(None, "function", "", None, None, lines)
    listed = ["- `depth`: layers. All of them.", "- `low`, `high`: ends, as `depth`: no.", "- `x`: it."]
    assert lines == ["Return it.", "", *listed, "", "Raises.", ""]


@pytest.mark.slow
def test_every_public_name_is_described_once():
    pages = reference.pages()
    described = re.findall(r"^\.\. auto(?:function|class|exception|data):: (\S+)", "\n".join(pages.values()), re.M)
    assert len(described) == len(set(described))
    objects = [_object(dotted) for dotted in described]
    assert len({id(value) for value in objects}) == len(objects)
    for package in ("propscope", *reference.packages()):
        module = import_module(package)
        for name in set(reference.public_names(module)) - {"plots", "theory"}:
            assert any(getattr(module, name) is value for value in objects), f"{package}.{name}"


def test_every_page_stands_once_in_the_table_of_contents():
    # The titles of its links are those of the site.
    listed = [target for _, target in contents.LINK.findall((ROOT / "docs/index.md").read_text())]
    pages = [(ROOT / "docs" / f"{target}.md").resolve() for target in listed]
    assert len(pages) == len(set(pages))
    own = [path for path in (ROOT / "docs").rglob("*.md") if path.parent.name not in contents.GENERATED]
    own += [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    assert set(pages) == set(own) - {ROOT / "docs/index.md"}


def test_every_example_has_a_page_with_its_source():
    pages = examples.pages()
    assert set(pages) == {path.stem for path in example_files(examples_folder())} | {"index"}
    for name in set(pages) - {"index"}:
        assert f"```\npropscope example {name}\n```" in pages[name]
        assert f"../../examples/{name}.py" in pages[name]
        assert f"[{name}]({name}.md)" in pages["index"]
    shown = re.findall(r"\(\.\./\.\./outputs/(docs-example-.*?)\)", "\n".join(pages.values()))
    assert sorted(shown) == sorted(path.name for path in (ROOT / "outputs").glob("docs-example-*.png"))
    assert shown


def test_every_picture_is_explained():
    text = (ROOT / "docs/pictures.md").read_text()
    headings = {name for line in re.findall(r"^### (.+)", text, re.MULTILINE) for name in line.split(", ")}
    assert headings >= {plot.name for plot in (*PLOTS, *TRAINING_PLOTS)}
    (rows,) = re.findall(r"^## Of a monitored run\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([a-z-]+)`", rows)) == {plot.name for plot in MONITORED_PLOTS}


def _object(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)
