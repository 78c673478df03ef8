"""Names come from files and models of strangers: none of their control characters reaches a terminal or a picture."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.text
import numpy as np
import pytest
import torch
from building.command_line import Command
from building.records import layered, small_profile, small_run

import propscope
from propscope.errors import InputError
from propscope.plots import draw_all, gallery
from propscope.printable import printable, shortened, shown
from propscope.records import CoverageNote, NetworkProfile, ProfileSet, TrainingSet
from propscope.store import save

TITLE, COLOUR, BELL, C1, NEWLINE, OVERRIDE = (
    "\x1b]0;owned\x07",
    "\x1b[31m",
    "\a",
    "\x9b2J",
    "\nforged: yes\r",
    "\u202egnp",
)
HOSTILE = (TITLE, COLOUR, BELL, C1, NEWLINE, OVERRIDE, "\x7f\x00", "\u2028", "\ufeff", "\u2066", "\U000e0041")
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]")


def _clean(text: str) -> str:
    assert not (found := HIDDEN.search(text)), (found, text)
    assert not re.search(r"^forged: yes", text, re.MULTILINE), text
    return text


@pytest.fixture
def command(capsys: Any) -> Command:
    return Command(capsys)


def _hostile(seed: int = 0, act: str = "relu") -> NetworkProfile:
    plain = layered(forward=np.full(5, 0.1), backward=np.full(5, 0.2))
    evil = "".join(HOSTILE).replace("\0", "")
    sites = tuple(
        replace(site, name=f"{site.name}{evil}", kind=f"{site.kind}{evil}", dtype=f"f{TITLE}") for site in plain.sites
    )
    parameters = tuple(replace(each, name=f"{each.name}{evil}") for each in plain.parameters)
    labels = {"initializer": f"he{evil}", "activation": f"{act}{C1}", f"key{evil}": TITLE, "seed": seed}
    notes = (CoverageNote(f"layer{evil}", f"module{C1}", f"because{TITLE}"),)
    return replace(plain, sites=sites, parameters=parameters, labels=labels, coverage=notes)


def _storable(profile: NetworkProfile) -> NetworkProfile:
    """Return the profile with element types and kinds of notes that a file may hold; its names stay."""
    return replace(profile, coverage=(), sites=tuple(replace(site, dtype="float32") for site in profile.sites))


def test_every_control_character_is_written_as_its_escape() -> None:
    assert printable(TITLE) == r"\x1b]0;owned\x07"
    assert printable(C1 + NEWLINE) == r"\x9b2J\nforged: yes\r"
    assert printable(NEWLINE + "\t", lines=True) == "\nforged: yes\\r\\t"
    assert printable(OVERRIDE) == r"\u202egnp"
    assert printable("\ud800") == r"\ud800"
    for code in [*range(0x20), *range(0x7F, 0xA0), 0x200B, 0x2029, 0x2067, 0xFEFF, 0xE0001]:
        assert printable(f"a{chr(code)}b").isascii(), hex(code)
        assert (printable(f"a{chr(code)}b", lines=True) == f"a{chr(code)}b") == (code == 10), hex(code)
    for text in ("", "größe", "σ² → ∞", "▁▂▃", "日本", "a\u00a0b", "क्\u200dष", "layers.0#1"):
        assert printable(text) == text


def test_a_record_is_shown_without_them_and_is_else_the_same() -> None:
    plain = small_profile()
    assert shown(plain) is plain
    profile = _hostile()
    clean = shown(profile)
    assert clean.sites[0].name.endswith(printable("".join(HOSTILE).replace("\0", "")))
    assert clean.sites[0].forward is profile.sites[0].forward
    assert clean.provenance is profile.provenance
    assert len(clean.labels) == len(profile.labels)
    _clean("".join(map(str, clean.labels)) + "".join(site.kind + site.dtype for site in clean.sites))
    assert shown({"a\n": ("b\a", 1)}) == {r"a\n": (r"b\x07", 1)}


def test_errors_show_none() -> None:
    error = InputError(f"no label {TITLE}{NEWLINE}", hint=C1)
    _clean(f"{error}{error.hint}")
    assert str(error) == r"no label \x1b]0;owned\x07\nforged: yes\r"


def test_no_print_of_a_record_shows_them() -> None:
    several = ProfileSet.of([_hostile(), _hostile(act="tanh")])
    diagnosis = propscope.diagnose(several)
    assert diagnosis.findings
    for record in (_hostile(), several, diagnosis, diagnosis.networks[0], diagnosis.networks[0].findings[0]):
        _clean(str(record))
        _clean(record._repr_html_())
    run = small_run()
    run = replace(run, labels={**run.labels, "initializer": TITLE + NEWLINE, f"key{C1}": BELL})
    for record in (run, TrainingSet((run, replace(run, labels={**run.labels, "initializer": "a"})))):
        _clean(str(record))
        _clean(record._repr_html_())


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["show", "--seed", "0"],
        ["diagnose"],
        ["check"],
        ["show", "--act", TITLE + NEWLINE],
        ["show", "--seed", "9"],
    ],
    ids=["grid", "layers", "diagnose", "check", "unknown", "none"],
)
def test_no_command_prints_them(tmp_path: Path, command: Command, arguments: list[str]) -> None:
    save(tmp_path / "run.h5", ProfileSet.of([_storable(_hostile()), _storable(_hostile(1))]))
    outcome = command(arguments[0], tmp_path / "run.h5", *arguments[1:])
    assert outcome.out + outcome.err
    _clean(outcome.out)
    assert len([line for line in outcome.err.splitlines() if line.startswith("error: ")]) == (outcome.code == 2)
    _clean(outcome.err)


def test_json_keeps_the_names_and_escapes_them(tmp_path: Path, command: Command) -> None:
    save(tmp_path / "run.h5", _storable(_hostile()))
    printed = command("show", tmp_path / "run.h5", "--json").out
    _clean(printed)
    assert [site["name"] for site in json.loads(printed)["sites"]] == [site.name for site in _hostile().sites]


@pytest.mark.slow
def test_no_picture_and_no_file_name_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    write = gallery.write_figure

    def noted(figure: Any, path: Path) -> None:
        texts.extend(text.get_text() for text in figure.findobj(matplotlib.text.Text))
        write(figure, path)

    monkeypatch.setattr(gallery, "write_figure", noted)
    profiles = ProfileSet.of([_hostile(), _hostile(1), _hostile(act="a$\\frac$"), _hostile(act="../../up/$x^")])
    paths = draw_all(profiles, tmp_path / "pictures", stem="run")
    assert any("he\\x1b" in text.replace("\n", "") for text in texts)
    for text in texts:
        _clean(text)
    for path in paths:
        assert re.fullmatch(r"[\w.=+-]+", path.name)
    assert sorted(tmp_path.rglob("*.png")) == sorted(paths)


def test_a_module_of_any_name_is_inspected(capsys: Any) -> None:
    class Evil(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values * 2

    Evil.__name__ = f"Evil{TITLE}"
    model = torch.nn.Sequential()
    model.add_module(f"first{NEWLINE}{C1}", torch.nn.Linear(4, 4))
    model.add_module(f"second{TITLE}", Evil())
    profile = propscope.profile(model, torch.ones(3, 4))
    _clean(str(profile))
    propscope.summary(model, torch.ones(3, 4))
    printed = _clean(capsys.readouterr().out)
    assert r"second\x1b]0;owned\x07" in printed
    with pytest.raises(InputError) as caught:
        profile["absent"]
    _clean(str(caught.value))


@pytest.mark.parametrize(
    ("name", "most", "short"),
    [
        ("blocks.0.attention.scaled_dot_product_attention", 28, "blocks.0.attention.scaled_d…"),
        ("transformer.h.10.mlp.c_proj.weight", 28, "tran….h.10.mlp.c_proj.weight"),
        ("bert.encoder.layer.11.attention.self.query", 24, "….lay….11.att….self.que…"),
        ("fc", 2, "fc"),
        ("fc", 0, ""),
        ("x" * 99, 20, "x" * 19 + "…"),
        ("a.b.c.d.e.f.g.h", 9, "a.b.….g.h"),
        ("\x1b[31m", 9, r"\x1b[31m"),
    ],
)
def test_a_name_is_shortened_where_it_is_longest(name: str, most: int, short: str) -> None:
    assert shortened(name, most) == short
    assert len(shortened(name, most)) <= most


def test_names_of_one_kind_stay_apart() -> None:
    names = [f"blocks.{n}.attention.scaled_dot_product_attention#{m}" for n in range(30) for m in range(2)]
    assert len({shortened(name, 24) for name in names}) == 60
