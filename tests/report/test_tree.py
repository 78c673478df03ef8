"""The tree on records made by hand: its lines, its marks, its text."""

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest

from propscope.diagnosis import diagnose
from propscope.errors import InputError
from propscope.records import CoverageNote, LogHistogram, NetworkProfile, Parameter, Site, TensorSummary
from propscope.records.finding import Diagnosis, Finding, Remedy
from propscope.records.gains import site_gains
from propscope.report.inspection import inspection
from propscope.report.sparkline import sparkline
from propscope.report.terminal import terminal_width, write
from propscope.report.tree import FIGURES, LINES_AT_MOST, sorted_lines, tree_lines


def summary(rms, count=1000, **changes):
    """Values of this rms, half of either sign."""
    values = np.full(count, rms) * np.where(np.arange(count) % 2, 1, -1)
    return replace(TensorSummary.of(values), **changes)


def site(name, rms=1.0, grad=1.0, *, kind="Linear", role="pre-activation", shape=(32, 8), **fields):
    forward = rms if rms is None or isinstance(rms, TensorSummary) else summary(rms)
    backward = grad if grad is None or isinstance(grad, TensorSummary) else summary(grad)
    return Site(name, kind, role, shape, forward=forward, backward=backward, samples=32, **fields)


def network(*sites, **fields):
    return NetworkProfile(sites, **fields)


def fault(name, word, kind="exploding", severity="strained", *, sites=(), **fields):
    """A finding that marks one site."""
    said = f"{name}: {word}"
    return Finding(kind, severity, sites or (name,), said, "it is", marks={name: word}, **fields)


def labels(profile, **options):
    return [line.label for line in tree_lines(profile, **options)]


class TestTree:
    def test_follows_the_modules_in_execution_order(self):
        names = ["stem.conv", "stem.relu", "body.0.a", "body.0.b", "body.1.a", "body.1.b", "head"]
        assert labels(network(*map(site, names)), title="Net") == [
            "Net",
            "├─stem",
            "│ ├─conv",
            "│ └─relu",
            "├─body",
            "│ ├─0",
            "│ │ ├─a",
            "│ │ └─b",
            "│ └─1",
            "│   ├─a",
            "│   └─b",
            "└─head",
        ]

    def test_levels_with_one_entry_share_a_line(self):
        assert labels(network(site("encoder.layers.0.linear"), site("encoder.layers.0.relu"), site("out.proj"))) == [
            "(model)",
            "├─encoder.layers.0",
            "│ ├─linear",
            "│ └─relu",
            "└─out.proj",
        ]

    def test_calls_and_outputs(self):
        names = ["block.fc#0", "block.fc#1", "block#0", "block#1", "lstm[0]", "lstm[1][0]", "", "[logits]"]
        assert labels(network(*map(site, names))) == [
            "(model)",
            "├─block",
            "│ ├─fc#0",
            "│ ├─fc#1",
            "│ ├─#0",
            "│ └─#1",
            "├─lstm[0]",
            "├─lstm[1][0]",
            "└─[logits]",
        ]

    def test_dots_within_brackets_are_no_levels(self):
        assert labels(network(site("a[x.y]"), site("b"))) == ["(model)", "├─a[x.y]", "└─b"]

    def test_a_module_with_its_own_site_keeps_its_line(self):
        lines = tree_lines(network(site("block.fc", 2.0), site("block", 3.0, role="output"), site("", 4.0)))
        assert [line.label for line in lines] == ["(model)", "└─block", "  └─fc"]
        assert [line.figures["forward_rms"].low for line in lines] == [4.0, 3.0, 2.0]

    def test_depth_collapses_to_ranges(self):
        sites = (site("a.0", 1.0), site("a.1", 3.0, flat_fraction=0.25), site("b", 2.0))
        top, a, b = tree_lines(network(*sites), depth=1)
        assert (a.kind, a.figures["forward_rms"].low, a.figures["forward_rms"].high) == ("2 sites", 1.0, 3.0)
        assert (a.figures["gain"].low, a.figures["flat"].high) == (3.0, 0.25)
        assert b.kind == "Linear"
        assert top.kind == ""

    def test_a_collapsed_module_bears_the_marks_inside(self):
        found = Diagnosis(
            (fault("a.1", "NaN"), fault("a.1", "x9"), fault("a.0", "NaN"), fault("b", "", "precision", "note"))
        )
        lines = tree_lines(network(site("a.0"), site("a.1"), site("b")), found, depth=1)
        assert [line.words for line in lines] == [(), ("NaN", "x9"), ()]

    def test_a_module_bears_its_mark_at_every_call(self):
        found = Diagnosis((fault("fc", "no gradient", "stagnant"), fault("rnn[1]", "NaN"), fault("", "x2")))
        names = ("fc#0", "fc#1", "fcs", "rnn[0]", "rnn[1]", "")
        lines = {line.label: line.words for line in sorted_lines(network(*map(site, names)), found, sort="gain")}
        marked = {"fc#0": ("no gradient",), "fc#1": ("no gradient",), "rnn[1]": ("NaN",), "(model)": ("x2",)}
        assert {name: words for name, words in lines.items() if words} == {
            name: marked[name] for name in lines if name in marked
        }
        words = {line.label.lstrip("│ ├└─"): line.words for line in tree_lines(network(*map(site, names)), found)}
        assert {name: marks for name, marks in words.items() if marks} == marked

    def test_many_sites_stay_readable_and_the_worst_finding_open(self):
        names = [f"h.{block}.{part}" for block in range(100) for part in ("norm", "up", "gelu", "down", "add")]
        profile = network(*(site(name, role="other") for name in names))
        found = Diagnosis(
            (fault("h.70.up", "x50", sites=("h.5.up",)), fault("h.70.gelu", "x0.020"), fault("h.3.up", "x9"))
        )
        lines = tree_lines(profile, found)
        assert len(lines) <= LINES_AT_MOST + 5
        assert sum(line.kind == "5 sites" for line in lines) == 99
        marked = [(line.label.lstrip("│ ├─"), line.words) for line in lines if line.words]
        assert marked == [("3", ("x9",)), ("up", ("x50",)), ("gelu", ("x0.020",))]
        assert len(tree_lines(profile, depth=5)) == 602
        assert not any(line.words for line in tree_lines(profile))

    @pytest.mark.parametrize("depth", [0, -1])
    def test_depth_must_be_positive(self, depth):
        with pytest.raises(InputError, match=f"depth must be .* got {depth}"):
            tree_lines(network(site("a")), depth=depth)

    def test_no_sites(self):
        assert labels(network()) == ["(model)"]


class TestSort:
    profile = network(
        site("a", 1.0, flat_fraction=0.1, units=10, dead_units=2),
        site("b", 4.0, 2.0, flat_fraction=0.9, units=10, dead_units=0),
        site("c", 3.0, summary(1.0, nan_count=1)),
    )

    @pytest.mark.parametrize(
        ("sort", "names"),
        [("gain", ["b", "c"]), ("flat", ["b", "a"]), ("dead", ["a"]), ("nonfinite", ["c"]), ("backward", ["b", "a"])],
    )
    def test_worst_first(self, sort, names):
        found = [line.label for line in sorted_lines(self.profile, sort=sort)]
        assert [name for name in found if name in names] == names
        assert sort == "backward" or found == names

    def test_top(self):
        assert [line.label for line in sorted_lines(self.profile, sort="flat", top=1)] == ["b"]

    def test_what_was_found_comes_first_though_a_norm_hides_it(self):
        found = Diagnosis(
            (
                fault("a", "alike", "collapse", "broken", direction="forward"),
                fault("c", "x100", direction="forward"),
                fault("a", "grad x9", "vanishing", direction="backward"),
            )
        )
        first = {sort: sorted_lines(self.profile, found, sort=sort)[0].label for sort in ("gain", "backward", "flat")}
        assert first == {"gain": "c", "backward": "a", "flat": "b"}

    def test_bad_values(self):
        with pytest.raises(
            InputError, match='sort must be "gain", "backward", "flat", "dead" or "nonfinite", got "size"'
        ):
            sorted_lines(self.profile, sort="size")
        with pytest.raises(InputError, match=r"top must be .* got 0"):
            sorted_lines(self.profile, sort="gain", top=0)


class TestGains:
    def test_gains_are_those_of_the_signal_sites(self):
        profile = network(site("a", 1.0, 2.0), site("a.relu", 5.0, role="activation"), site("b", 3.0, 4.0))
        gains = site_gains(profile)
        assert [gain.forward for gain in gains] == [None, None, 3.0]
        assert [gain.backward for gain in gains] == [0.5, None, None]
        assert [gain.step for gain in gains] == [None, 5.0, 0.6]


class TestSparkline:
    def test_a_bell_is_tall_in_the_middle(self):
        drawn = sparkline(LogHistogram.of(np.random.default_rng(0).standard_normal(20_000)), width=11)
        assert len(drawn) == 11
        assert drawn[5] == "█"
        assert drawn[0] == drawn[-1] == "▁"

    def test_one_sign_starts_at_zero(self):
        drawn = sparkline(LogHistogram.of(np.maximum(np.random.default_rng(0).standard_normal(9999), 0)), width=8)
        assert drawn[0] == "█"
        assert sparkline(LogHistogram.of(-np.arange(1.0, 5.0)), width=4)[0] == "█"

    def test_saturated_ends(self):
        assert sparkline(LogHistogram.of(np.repeat([-1.0, 1.0], 50)), width=5) == "█   █"

    def test_one_outlier_does_not_hide_the_rest(self):
        values = np.append(np.random.default_rng(0).standard_normal(20_000), 1e6)
        assert sum(block != " " for block in sparkline(LogHistogram.of(values), width=10)) == 10

    @pytest.mark.parametrize(
        ("values", "drawn"),
        [([], ""), ([0.0, 0.0], "zero"), ([math.nan], "N"), ([math.inf, math.nan], "N∞"), ([0.0, -math.inf], "zero∞")],
    )
    def test_what_is_no_distribution(self, values, drawn):
        assert sparkline(LogHistogram.of(np.array(values)), width=8) == drawn

    def test_nan_is_marked_behind(self):
        drawn = sparkline(LogHistogram.of(np.array([1.0, 2.0, math.nan])), width=8)
        assert len(drawn) == 8
        assert drawn.endswith("N")
        assert sparkline(None) == ""


class TestText:
    sites = (
        site("features.0.conv", 1.0, kind="Conv2d", role="other", shape=(8, 16, 32, 32)),
        site("features.0.norm", 1.0, kind="BatchNorm2d", activation="ReLU", flat_fraction=0.5, units=16, dead_units=4),
        site("features.0.relu", 0.7, kind="relu", role="activation"),
        site("features.1.linear", 40.0, kind="Linear", activation="ReLU", flat_fraction=0.95),
    )
    profile = network(
        *sites,
        parameters=(
            Parameter("w", (8, 8), summary(1.0), summary(0.5)),
            Parameter("b", (8,), summary(1.0)),
        ),
        coverage=tuple(CoverageNote(f"h.{i}.drop", "module", "Dropout was never called") for i in range(12)),
    )

    found = Diagnosis(
        (
            fault(
                "features.1.linear",
                "x40",
                direction="forward",
                remedy=Remedy("scale", "multiply the weight of features.1.linear by 0.025"),
            ),
            fault("features.1.linear", "inactive", "inactive"),
            Finding("precision", "note", ("features.1.linear",), "fp16 would lose values", "its range"),
            Finding(
                "insufficient evidence", "note", (), "8 samples were seen", "few", remedy=Remedy("measure", "more")
            ),
        )
    )

    def test_says_what_it_has_to(self):
        text = inspection(self.profile, self.found, title="Net")
        first, *rest = text.splitlines()
        assert first == "strained: exploding forward at features.1.linear: x40"
        assert rest[:4] == [
            "cause: it is",
            "remedy: multiply the weight of features.1.linear by 0.025",
            "1 more finding: strained: inactive at features.1.linear",
            "",
        ]
        assert rest[6] == "   Net"
        assert any(line.startswith("! ") and line.endswith("x40, inactive") for line in rest)
        assert "50%  25%" in text
        assert "parameters: 72 in 2 tensors; 1 without gradient" in text
        assert "coverage: modules h.*.drop (12): Dropout was never called" in text
        assert "fp16 loss scale 8192 = 2^13 for this loss (largest gradient 1.0" in text
        assert "inactive: over 90%" in " ".join(text.split())
        assert "alike" not in text
        assert "note: 8 samples were seen; more" in rest
        assert "would lose" not in text

    @pytest.mark.parametrize("width", [60, 80, 100, 160, None])
    def test_fits_the_width(self, width):
        deep = tuple(replace(one, name="transformer.encoder.layers." + one.name) for one in self.sites)
        for profile in (self.profile, replace(self.profile, sites=deep)):
            name = profile.sites[-1].name
            found = Diagnosis((fault(name, "x40"), fault(name, "inactive", "inactive")))
            text = inspection(profile, found, width=width)
            assert max(map(len, text.splitlines())) <= (width or 200)
            assert text.count("! ") >= 2

    def test_a_function_is_called_one(self):
        assert "function" in inspection(self.profile, Diagnosis())

    def test_sort_shows_full_names(self):
        text = inspection(self.profile, Diagnosis(), sort="flat", top=1)
        assert "features.1.linear" in text
        assert "features.0.norm" not in text
        assert "features.0.norm" in inspection(self.profile, Diagnosis(), sort="flat", top=2)

    def test_a_healthy_network_has_no_marks(self):
        text = inspection(network(site("a"), site("b")), Diagnosis())
        assert text.startswith("healthy: no problem found at 2 sites\n\n")
        assert "!" not in text

    def test_forward_alone_is_said(self):
        seen = network(site("a", grad=None))
        text = inspection(seen, diagnose(seen))
        assert text.startswith("not measured: no gradient was seen")
        assert "backward rms" not in text

    def test_a_run_that_stopped_is_said_first(self):
        note = CoverageNote("head", "module", "the run stopped in here: ValueError: no")
        text = inspection(network(site("a"), coverage=(note,)), Diagnosis((fault("a", "NaN"),)))
        assert text.startswith("stopped in head: ValueError: no\n\n")
        assert any(line.startswith("! ") and line.endswith("NaN") for line in text.splitlines())

    def test_nothing_was_seen(self):
        assert inspection(network(), diagnose(network())).startswith("not measured: no site was recorded")


class Stream(StringIO):
    def __init__(self, encoding="utf-8", terminal=False):
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self._terminal


class TestTerminal:
    def test_ascii_stands_in_for_blocks(self):
        stream = Stream("ascii")
        write("├─a ▁█…", stream)
        assert stream.getvalue() == "|-a .#~\n"

    def test_red_on_a_terminal_alone(self, monkeypatch):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        plain, terminal = Stream(), Stream(terminal=True)
        for stream in (plain, terminal):
            write("! a\nb", stream)
        assert plain.getvalue() == "! a\nb\n"
        assert terminal.getvalue() == "\x1b[31m! a\x1b[0m\nb\n"
        assert terminal_width(plain) is None
        assert terminal_width(terminal) > 0

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_no_colour_where_it_is_unwanted(self, monkeypatch, name, value):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv(name, value)
        stream = Stream(terminal=True)
        write("! a\nhealthy", stream)
        assert stream.getvalue() == "! a\nhealthy\n"


def test_figures_name_what_a_site_has():
    one = site("a", 2.0, 3.0, flat_fraction=0.5, units=8, dead_units=2)
    (gains,) = site_gains(network(one))
    assert {name: read(one, gains) for name, read in FIGURES.items()} == {
        "forward_rms": 2.0,
        "gain": None,
        "backward_rms": 3.0,
        "backward_gain": None,
        "flat": 0.5,
        "dead": 0.25,
    }
