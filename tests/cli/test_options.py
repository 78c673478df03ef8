"""The options of all commands: each means one thing, as docs/options.md says; old spellings name the new ones."""

import re
from pathlib import Path

import pytest
import typer

from propscope.cli import build
from propscope.cli.signature import spread
from propscope.cli.wrong_use import RENAMED

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
COMMANDS = typer.main.get_command(build()).commands


def rows():
    """Option -> the commands that have it, as the page should write them."""
    found = {}
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                flags = ", ".join(sorted(parameter.opts, key=len))
                found.setdefault(" / ".join([flags, *parameter.secondary_opts]), []).append(f"`{name}`")
    return {
        option: "all" if len(commands) == len(COMMANDS) else ", ".join(commands) for option, commands in found.items()
    }


def test_the_page_has_every_option_once_with_its_commands():
    table = re.findall(r"^\| `(-.+?)` \| (.+?) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert {option: commands for option, _, commands in table} == rows()
    options, meanings, _ = zip(*table, strict=True)
    assert len(set(options)) == len(options)
    assert len(set(meanings)) == len(meanings)
    names = [option.partition("--")[2] for option in options]
    assert names == sorted(names)


@pytest.mark.parametrize("one, many", [("--seed", "--seeds"), ("--step", "--steps"), ("--batch", "--batches")])
def test_a_plural_is_a_number_where_the_singular_is_a_list(one, many):
    metavars = {(p.opts[0], p.metavar) for command in COMMANDS.values() for p in command.params}
    assert [metavar for name, metavar in metavars if name == one] == ["LIST"]
    assert [metavar for name, metavar in metavars if name == many] == [None]


@pytest.mark.parametrize(("name", "option"), RENAMED, ids=" ".join)
def test_an_old_spelling_names_the_new_one(command, name, option):
    outcome = command(name, "x", f"{option}=1")
    now = RENAMED[name, option]
    assert outcome.error == f"option {option} is now {now}"
    assert now.split()[0].split("/")[-1] in {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
    assert command(name, option).error == outcome.error


@pytest.mark.parametrize(
    ("line", "guess"),
    [
        (["inspect", "--sotr", "x"], "--sort"),
        (["profile", "--activation", "relu"], "--act"),
        (["profile", "--seed", "1"], "--seeds"),
        (["show", "run.h5", "--seeds", "1"], "--seed"),
        (["profile", "--learning-rate", "1"], ""),
        (["train", "--learning-rate", "1"], "--lr"),
        (["inspect", "--input-size", "1"], "--input-shape"),
        (["plot", "--depht", "1"], "--depth"),
        (["summary"], "inspect"),
        (["Show"], "show"),
        (["diagnoze"], "diagnose"),
        (["qqqq"], ""),
    ],
    ids=str,
)
def test_what_was_meant_is_asked(command, line, guess):
    outcome = command(*line)
    assert re.match(r"No such (option: --|command ')", outcome.error)
    asked = re.match(r"did you mean ([\w-]+)", outcome.hint)
    assert (asked[1] if asked else "") == guess
    assert "--help" in outcome.hint


def test_a_record_among_the_parameters_becomes_options():
    from dataclasses import dataclass
    from typing import Annotated

    @dataclass(frozen=True)
    class Size:
        height: Annotated[int, "metres"] = 2
        depth: int = 3

    def area(name: str, *, size: Size, depth: int = 5) -> tuple[str, Size, int]:
        return name, size, depth

    taken = spread(area)
    assert taken.__annotations__ == {"name": str, "height": Annotated[int, "metres"], "depth": int}
    assert taken(name="a", height=4, depth=6) == ("a", Size(4, 6), 6)
