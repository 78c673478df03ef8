"""The tree on records made by hand: its lines, its problems, its text."""

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest

from propscope.errors import InputError
from propscope.results import CoverageNote, LogHistogram, NetworkProfile, Parameter, Site, TensorSummary
from propscope.results.gains import site_gains
from propscope.results.inspection import inspection
from propscope.results.problems import find_problems, first_problem
from propscope.results.sparkline import sparkline
from propscope.results.terminal import width_of, write
from propscope.results.tree import FIGURES, LINES_AT_MOST, sorted_lines, tree_lines


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


def chain(rms, grad=None):
    grads = grad or [1.0] * len(rms)
    return network(*(site(f"layers.{i}.linear", r, g) for i, (r, g) in enumerate(zip(rms, grads, strict=True))))


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

    def test_a_collapsed_module_bears_the_problems_inside(self):
        lines = tree_lines(network(site("a.0"), site("a.1", summary(1.0, nan_count=3)), site("b")), depth=1)
        assert lines[1].words == ("NaN",)

    def test_many_sites_stay_readable_and_the_first_problem_open(self):
        names = [f"h.{block}.{part}" for block in range(100) for part in ("norm", "up", "gelu", "down", "add")]
        rms = {"h.70.up": 50.0}
        profile = network(*(site(name, rms.get(name, 1.0), role="other") for name in names))
        lines = tree_lines(profile)
        assert len(lines) <= LINES_AT_MOST + 5
        assert sum(line.kind == "5 sites" for line in lines) == 99
        marked = [line for line in lines if line.words]
        assert [(line.label.lstrip("│ ├─"), line.words) for line in marked] == [("up", ("x50",)), ("gelu", ("x0.020",))]
        assert len(tree_lines(profile, depth=5)) == 602

    @pytest.mark.parametrize("depth", [0, -1])
    def test_depth_must_be_positive(self, depth):
        with pytest.raises(InputError, match=f"depth is {depth}"):
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

    def test_a_found_jump_comes_first_though_a_norm_hides_it(self):
        sites = []
        for block in range(6):
            sites += [site(f"{block}.conv", 100.0 if block == 3 else 1.0, kind="Conv2d", role="other")]
            sites += [site(f"{block}.bn", 1.0 + 0.1 * block, kind="BatchNorm2d")]
        assert sorted_lines(network(*sites), sort="gain")[0].label == "3.conv"

    def test_bad_values(self):
        with pytest.raises(InputError, match="sort is 'size'; valid is one of gain, backward, flat, dead, nonfinite"):
            sorted_lines(self.profile, sort="size")
        with pytest.raises(InputError, match="top is 0"):
            sorted_lines(self.profile, sort="gain", top=0)


def problems_of(profile):
    return {(problem.name, problem.word) for problem in find_problems(profile)}


class TestProblems:
    def test_a_sound_network_has_none(self):
        assert find_problems(chain([1.0, 1.1, 0.9, 1.2], [1.0, 0.9, 1.1, 1.0])) == ()

    def test_nonfinite_and_zero(self):
        profile = network(
            site("a"),
            site("b", summary(1.0, nan_count=2)),
            site("c", summary(1.0, neginf_count=1), summary(1.0, posinf_count=1)),
            site("d", 0.0, 0.0),
        )
        expected = {("b", "NaN"), ("c", "Inf"), ("c", "grad Inf"), ("d", "zero"), ("d", "grad zero")}
        assert expected <= problems_of(profile)
        assert first_problem(find_problems(profile)).name == "b"

    def test_a_jump_is_named_with_its_neighbours(self):
        rms = [1.0, 1.0, 1.0, 98.0, 98.0, 98.0]
        profile = chain(rms)
        first = first_problem(find_problems(profile))
        assert (first.name, first.word) == ("layers.3.linear", "x98")
        assert first.message == "forward gain 98 (x98 its neighbours')"
        assert problems_of(profile) == {("layers.3.linear", "x98")}

    @pytest.mark.parametrize(("gain", "found"), [(9.9, False), (10.1, True), (0.101, False), (0.099, True)])
    def test_threshold_of_a_jump(self, gain, found):
        assert bool(problems_of(chain([1.0, gain, gain, gain]))) == found

    def test_backward_jump_is_where_the_gradient_comes_out(self):
        profile = chain([1.0] * 5, [50.0, 50.0, 1.0, 1.0, 1.0])
        assert problems_of(profile) == {("layers.1.linear", "grad x50")}

    def test_other_stacks_and_nonlinearities_are_no_chain(self):
        encoder = [site(f"encoder.{i}.fc", 1.0, 1e-3, activation="ReLU") for i in range(3)]
        decoder = [site(f"decoder.{i}.fc", 0.05, 1.0, activation="ReLU") for i in range(3)]
        assert find_problems(network(*encoder, *decoder)) == ()
        kinds = (("forget", 1.0, "Sigmoid"), ("cell", 30.0, "Tanh"))
        gates = [site(f"{i}.{name}", rms, activation=kind) for i in range(2) for name, rms, kind in kinds]
        assert find_problems(network(*gates)) == ()
        assert find_problems(network(*(replace(gate, activation="Tanh") for gate in gates)))

    def test_layers_are_held_against_those_with_the_same_before_them(self):
        # up's input is the norm's output, though the gate's activation runs between them.
        rms = {"norm": 1.0, "gate": 1.0, "silu": 0.05, "up": 1.0, "down": 0.5}
        names = [f"{block}.{part}" for block in range(2) for part in rms]
        sites = [site(name, rms[name[2:]], role="other", kind="Linear") for name in names]
        assert find_problems(network(*sites)) == ()

    def test_pooling_is_no_jump(self):
        sites = (site("a", 1.0, 1 / 64, shape=(32, 8, 8, 8)), site("b", 0.1, 1.0), site("c", 0.1, 1.0))
        assert find_problems(network(*sites)) == ()

    def test_a_layer_unlike_its_kind_behind_a_norm(self):
        sites = []
        for block in range(6):
            sites += [site(f"{block}.conv", 100.0 if block == 3 else 1.0, kind="Conv2d", role="other")]
            sites += [site(f"{block}.bn", 1.0, kind="BatchNorm2d"), site(f"{block}.relu", 0.7, role="activation")]
        found = find_problems(network(*sites))
        assert [(problem.name, problem.word) for problem in found] == [("3.conv", "x100")]
        assert "of the other Conv2d sites" in found[0].message

    def test_a_sum_is_not_to_blame_for_its_branch(self):
        sites = []
        for block in range(4):
            large = 100.0 if block == 1 else 1.0
            sites += [
                site(f"{block}.{name}", rms, role="other", kind=kind)
                for name, rms, kind in (
                    ("norm", 1.0, "LayerNorm"),
                    ("fc", large, "Linear"),
                    ("add", 150.0 if block else 1.4, "add"),
                )
            ]
        assert problems_of(network(*sites)) == {("1.fc", "x100")}

    def test_a_norm_unlike_its_kind(self):
        rms = [1.0, 1.0, 30.0, 1.0, 1.0]
        sites = [site(f"{i}.norm", r, kind="LayerNorm", role="norm") for i, r in enumerate(rms)]
        assert ("2.norm", "x30") in problems_of(network(*sites))

    def test_vanishing_and_exploding_over_the_depth(self):
        depth = 12
        profile = chain([3.0**i for i in range(depth)], [0.25 ** (depth - 1 - i) for i in range(depth)])
        words = problems_of(profile)
        assert ("layers.11.linear", "exploding") in words
        assert ("layers.0.linear", "grad vanishing") in words
        assert ("layers.8.linear", "exploding") not in words
        assert first_problem(find_problems(profile)).word == "exploding"

    def test_a_vanishing_gradient_is_told_from_the_end_it_reaches(self):
        first = first_problem(find_problems(chain([1.0] * 12, [0.25 ** (11 - i) for i in range(12)])))
        assert (first.name, first.direction) == ("layers.0.linear", "backward")
        assert "(x0.25 a layer)" in first.message

    def test_nan_gradient_starts_at_its_last_site(self):
        nan = summary(1.0, nan_count=1)
        assert first_problem(find_problems(chain([1.0] * 4, [nan, nan, nan, 1.0]))).name == "layers.2.linear"

    @pytest.mark.parametrize(
        ("activation", "flat", "word"),
        [("Tanh", 0.6, "saturated"), ("Tanh", 0.4, None), ("ReLU", 0.6, None), ("relu", 0.95, "inactive")],
    )
    def test_flat(self, activation, flat, word):
        profile = network(site("a", activation=activation, flat_fraction=flat), site("b"))
        assert problems_of(profile) == ({("a", word)} if word else set())

    @pytest.mark.parametrize(("samples", "dead", "found"), [(32, 6, True), (32, 4, False), (8, 6, False)])
    def test_dead_needs_evidence(self, samples, dead, found):
        one = replace(site("a", units=10, dead_units=dead), samples=samples)
        assert (("a", "dead") in problems_of(network(one, site("b")))) == found

    def test_alike(self):
        assert problems_of(network(site("a", mean_cosine=0.9995), site("b", mean_cosine=0.99))) == {("a", "alike")}

    def test_the_lost_signal_comes_before_a_strained_layer(self):
        profile = network(site("a", activation="Tanh", flat_fraction=0.9), site("b", summary(1.0, nan_count=1)))
        assert first_problem(find_problems(profile)).name == "b"

    def test_forward_only_and_nothing(self):
        assert find_problems(network(site("a", 1.0, None), site("b", 1.0, None))) == ()
        assert find_problems(network(site("a", None, None), site("b", TensorSummary.empty(), None))) == ()
        assert find_problems(network()) == ()
        assert first_problem(()) is None

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

    def test_says_what_it_has_to(self):
        text = inspection(self.profile, title="Net")
        first, *rest = text.splitlines()
        assert first == "first problem: features.1.linear: forward gain 40"
        assert rest[3] == "   Net"
        assert any(line.startswith("! ") and line.endswith("x40, inactive") for line in rest)
        assert "50%  25%" in text
        assert "parameters: 72 in 2 tensors; 1 without gradient" in text
        assert "coverage: modules h.*.drop (12): Dropout was never called" in text
        assert "fp16 loss scale 8192 = 2^13 for this loss (largest gradient 1.0" in text
        assert "inactive: over 90% flat" in text
        assert "alike" not in text

    @pytest.mark.parametrize("width", [60, 80, 100, 160, None])
    def test_fits_the_width(self, width):
        deep = tuple(replace(one, name="transformer.encoder.layers." + one.name) for one in self.sites)
        for profile in (self.profile, replace(self.profile, sites=deep)):
            text = inspection(profile, width=width)
            assert max(map(len, text.splitlines())) <= (width or 200)
            assert text.count("! ") >= 2

    def test_a_function_is_called_one(self):
        assert "function" in inspection(self.profile)

    def test_sort_shows_full_names(self):
        text = inspection(self.profile, sort="flat", top=1)
        assert "features.1.linear" in text
        assert "features.0.norm" not in text
        assert "features.0.norm" in inspection(self.profile, sort="flat", top=2)

    def test_without_problems_nothing_is_marked(self):
        text = inspection(network(site("a"), site("b")))
        assert text.startswith("no problem seen at 2 sites\n")
        assert "!" not in text

    def test_forward_alone_is_said(self):
        text = inspection(network(site("a", grad=None), site("b", grad=None)))
        assert "No gradient was seen" in text
        assert "backward rms" not in text.splitlines()[2]

    def test_a_run_that_stopped_is_said_first(self):
        note = CoverageNote("head", "module", "the run stopped in here: ValueError: no")
        assert inspection(network(site("a"), coverage=(note,))).startswith("stopped in head: ValueError: no")

    def test_nothing_was_seen(self):
        assert "no problem seen at 0 sites" in inspection(network())


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
        plain, terminal = Stream(), Stream(terminal=True)
        for stream in (plain, terminal):
            write("! a\nb", stream)
        assert plain.getvalue() == "! a\nb\n"
        assert terminal.getvalue() == "\x1b[31m! a\x1b[0m\nb\n"
        assert width_of(plain) is None
        assert width_of(terminal) > 0


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
