"""Real models, changed in one way each: what is named first, and whether the two began alike."""

import copy
import math
import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from building.records import DATA, monitored
from torch import nn

import propscope
from propscope.errors import InputError
from propscope.records import MonitoredRun, ProfileSet

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


def net(seed=0, depth=3):
    torch.manual_seed(seed)
    layers = OrderedDict()
    for at in range(depth):
        layers[f"fc{at}"], layers[f"act{at}"] = nn.Linear(16, 16), nn.ReLU()
    layers["head"] = nn.Linear(16, 4)
    return nn.Sequential(layers)


def seen(model, batch=X, **options):
    return propscope.profile(model, batch, **options)


def changed(change):
    model = net()
    with torch.no_grad():
        change(model)
    return model


def ends(found):
    return tuple(one and one.site for one in (found.first("forward"), found.first("backward")))


def renamed(model, **names):
    return nn.Sequential(OrderedDict((names.get(name, name), part) for name, part in model.named_children()))


def test_the_same_model_is_the_same_and_that_it_began_alike_is_proven():
    found = propscope.compare(seen(net()), seen(net()))
    assert (found.same, found.exit_code, found.differences) == (True, 0, ())
    assert (found.same_batch, found.same_weights, found.sites) == (True, True, 7)
    assert str(found).startswith("the same: 7 sites agree, forward and backward\nbatch: the same, digest ")


def test_one_layer_with_larger_weights_is_named_first():
    found = propscope.compare(seen(net()), seen(changed(lambda model: model.fc1.weight.mul_(1.5))))
    assert found.exit_code == 1
    assert ends(found)[0] == "fc1"
    assert [each.name for each in found.parameters] == ["fc1.weight"]
    assert found.parameters[0].after == pytest.approx(1.5 * found.parameters[0].before, rel=1e-6)
    assert (found.same_batch, found.same_weights) == (True, False)
    assert str(found).startswith("different: first forward at fc1: gain x")


def test_the_last_layer_parts_forward_there_and_backward_before_it():
    found = propscope.compare(seen(net()), seen(changed(lambda model: model.head.weight.mul_(2))))
    assert ends(found) == ("head", "act2")


def test_a_renamed_layer_is_the_same_and_said_so():
    found = propscope.compare(seen(net()), seen(renamed(net(), fc1="dense")))
    assert found.same
    assert found.renamed == (("fc1", "dense"),)
    assert "matched by place in the graph, as their names differ (1): fc1 -> dense" in str(found)
    assert propscope.compare(seen(net()), seen(nn.Sequential(*net().children()))).same


def test_what_differs_at_a_renamed_layer_has_both_names():
    model = renamed(changed(lambda model: model.fc1.weight.mul_(1.5)), fc1="dense")
    found = propscope.compare(seen(net()), seen(model))
    first = found.first("forward")
    assert (first.site, first.renamed) == ("dense", "fc1")
    assert [(each.name, each.renamed) for each in found.parameters] == [("dense.weight", "fc1.weight")]
    assert "first forward at dense (was fc1): gain" in str(found)


@pytest.mark.parametrize("named", [True, False], ids=["by names", "by numbers"])
def test_a_layer_that_was_put_in_is_named_and_those_behind_it_are_matched(named):
    parts = list(net().named_children())
    new = [*parts[:3], ("norm", nn.LayerNorm(16)), *parts[3:]]
    models = [nn.Sequential(OrderedDict(each) if named else OrderedDict()) for each in (parts, new)]
    if not named:
        models = [nn.Sequential(*(part for _, part in each)) for each in (parts, new)]
    found = propscope.compare(*map(seen, models))
    first = found.first("forward")
    assert (first.quantity, first.message) == ("structure", "new")
    assert first.site == ("norm" if named else "3")
    assert [one for one in found.differences if one.quantity == "structure"] == [first]


def test_a_layer_that_was_taken_out_is_named_among_equal_ones():
    parts = list(net().children())
    found = propscope.compare(seen(nn.Sequential(*parts)), seen(nn.Sequential(*parts[:2], *parts[4:])))
    gone = [one for one in found.differences if one.quantity == "structure"]
    assert [(one.site, one.message) for one in gone] == [("2", "gone"), ("3", "gone")]
    assert {each.name for each in found.parameters} == {"2.weight", "2.bias"}


def test_layers_in_another_order_are_named_with_what_feeds_them():
    class Ordered(nn.Module):
        def __init__(self, order):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.order = nn.Linear(16, 16), nn.Linear(16, 16), order

        def forward(self, x):
            for name in self.order:
                x = torch.tanh(getattr(self, name)(x))
            return x

    found = propscope.compare(seen(Ordered("ab")), seen(Ordered("ba")))
    first = found.first("forward")
    assert (first.site, first.message) == ("b", "was computed from a.tanh, is from input")
    assert found.same_weights is True


def test_layers_that_exchanged_their_weights_are_named():
    model = net()
    model.fc0, model.fc2 = model.fc2, model.fc0
    found = propscope.compare(seen(net()), seen(model))
    taken = {each.name: each.taken_from for each in found.parameters}
    assert taken == {
        "fc0.weight": "fc2.weight",
        "fc0.bias": "fc2.bias",
        "fc2.weight": "fc0.weight",
        "fc2.bias": "fc0.bias",
    }
    assert "as fc2.weight was" in str(found)


def test_nan_in_one_is_a_state():
    found = propscope.compare(seen(net()), seen(changed(lambda model: model.fc1.weight.fill_(math.nan))))
    first = found.first("forward")
    assert (first.site, first.quantity, first.message) == ("fc1", "state", "now NaN or Inf")
    back = propscope.compare(seen(changed(lambda model: model.fc1.weight.fill_(math.nan))), seen(net()))
    assert back.first("forward").message == "no longer NaN or Inf"


def test_a_gradient_that_one_side_alone_has_is_a_state():
    class Cut(nn.Module):
        def __init__(self, cut):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c, self.cut = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4), cut

        def forward(self, x):
            h = self.b(self.a(x))
            return self.c(h.detach() if self.cut else h)

    whole, cut = seen(Cut(False)), seen(Cut(True))
    for pair, message in (((whole, cut), "no longer seen"), ((cut, whole), "seen, and not before")):
        found = propscope.compare(*pair)
        assert found.first("forward") is None
        assert [(one.site, one.direction, one.message) for one in found.differences] == [
            ("a", "backward", message),
            ("b", "backward", message),
        ]
        assert found.first("backward").site == "b"


def test_another_batch_and_another_size_are_said():
    other = propscope.compare(seen(net()), seen(net(), torch.randn(32, 16)))
    assert (other.same_batch, other.same_weights) == (False, True)
    assert "batch: of other values" in other.inputs
    smaller = propscope.compare(seen(net()), seen(net(), X[:8]))
    assert smaller.inputs[0] == "batch: differs: 32x16 float32 -> 8x16 float32"
    assert smaller.sites == 7


@pytest.mark.parametrize(
    # In float16 the gradients of a deeper one leave the range of normal numbers.
    ("dtype", "tolerance", "depth"),
    [(torch.bfloat16, 0.05, 8), (torch.float16, 0.02, 3)],
)
def test_a_less_precise_type_has_its_own_tolerance_which_is_said(dtype, tolerance, depth):
    found = propscope.compare(seen(net(depth=depth)), seen(net(depth=depth).to(dtype), X.to(dtype)))
    name = str(dtype).removeprefix("torch.")
    assert (found.tolerance, found.tolerance_of) == (tolerance, name)
    assert found.same, found
    assert f"tolerance {100 * tolerance:.1f}% ({name})" in " ".join(str(found).split())
    assert any(line.startswith("weights: of another type") and "alike" in line for line in found.inputs)
    assert propscope.compare(seen(net()), seen(net().double(), X.double())).tolerance == 0.01


def test_a_model_with_autocast_has_the_tolerance_of_its_sites():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    found = propscope.compare(seen(Cast()), seen(Cast()))
    assert found.tolerance_of == "bfloat16"


def test_a_layer_of_another_type_is_said_with_its_weights():
    class Mixed(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16, dtype=dtype), nn.Linear(16, 4)
            self.b.weight.data.copy_(torch.eye(16))
            self.b.bias.data.zero_()

        def forward(self, x):
            return self.c(self.b(self.a(x).to(self.b.weight.dtype)).to(x.dtype))

    found = propscope.compare(seen(Mixed(torch.float32)), seen(Mixed(torch.float16)))
    assert found.same
    assert "another type: float32 -> float16 at 1 of 3 sites, first at b" in found.notes
    assert "weights: of another type in 2 of 6 (b.weight, b.bias), float32 -> float16" in found.inputs[1]
    whole = propscope.compare(seen(net()), seen(net().double(), X.double()))
    assert "another type: float32 -> float64 at every site" in whole.notes
    assert whole.inputs[1] == "weights: of another type, float32 -> float64; alike within its rounding"


def test_a_tolerance_that_is_given_counts():
    model = changed(lambda model: model.fc1.weight.mul_(1.5))
    assert propscope.compare(seen(net()), seen(model), tolerance=1.0).same
    assert propscope.compare(seen(net()), seen(model), tolerance=1.0).tolerance_of == "as given"
    with pytest.raises(InputError, match="tolerance"):
        propscope.compare(seen(net()), seen(model), tolerance=-1)


def test_calls_of_one_layer_are_sites_of_their_own():
    class Again(nn.Module):
        def __init__(self, times):
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.times = nn.Linear(16, 16), times

        def forward(self, x):
            for _ in range(self.times):
                x = torch.relu(self.fc(x))
            return x

    found = propscope.compare(seen(Again(2)), seen(Again(3)))
    assert [one.site for one in found.differences if one.quantity == "structure"] == ["fc#2", "fc.relu#2"]
    assert found.same_weights is True


def test_what_moved_in_a_training_is_named():
    model = net()
    before = seen(model)
    optimizer = torch.optim.SGD([*model.fc1.parameters(), *model.head.parameters()], lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    found = propscope.compare(before, seen(model))
    assert [each.name for each in found.parameters] == ["fc1.weight", "fc1.bias", "head.weight", "head.bias"]
    assert "weights: 4 of 8 parameters differ (fc1.weight, fc1.bias, head.weight, ...)" in found.inputs


def test_a_filter_on_one_side_changes_no_weight():
    found = propscope.compare(seen(net()), seen(net(), include="^fc1"))
    assert (found.same_weights, found.parameters) == (True, ())


def test_weights_that_are_shared_on_one_side_differ_in_that_alone():
    tied = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    tied[2].weight = tied[0].weight
    untied = copy.deepcopy(tied)
    untied[2].weight = nn.Parameter(tied[0].weight.detach().clone())
    found = propscope.compare(seen(tied), seen(untied))
    assert (found.same, found.same_weights) == (True, False)
    assert [(each.name, math.isnan(each.before)) for each in found.parameters] == [("2.weight", True)]


def test_a_wider_layer_is_no_chance():
    wide = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    found = propscope.compare(seen(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))), seen(wide))
    assert found.first("forward").message == "had 16 units, has 32"
    assert not any("two seeds" in note for note in found.notes)


def test_a_buffer_that_moved_is_said():
    models = [nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4)).eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    models[1][1].running_mean += 1
    found = propscope.compare(*map(seen, models))
    assert "less than their moments show" in found.inputs[1]
    assert found.first("forward").site == "1"


class TestSeeds:
    @pytest.fixture(scope="class")
    @staticmethod
    def grid():
        return propscope.profile_mlp(
            depth=6, width=32, batch=32, activation="relu", initializer=["he_normal", "xavier_normal"], seeds=6
        )

    def test_other_seeds_of_one_network_are_the_same(self, grid):
        he = grid.subset(initializer="he_normal")
        found = propscope.compare(he.subset(seed=[0, 2, 4]), he.subset(seed=[1, 3, 5]))
        assert found.same, found
        assert found.method == "3 seeds against 3 other seeds"
        assert found.inputs == ("batches and weights: of other seeds",)

    def test_one_seed_on_each_side_is_held_against_theory(self, grid):
        he = grid.subset(initializer="he_normal")
        found = propscope.compare(he.select(seed=0), he.select(seed=1))
        assert found.same, found
        assert found.method == "seed 0 against seed 1, within the scatter that theory expects"
        other = propscope.compare(he.select(seed=0), grid.select(initializer="xavier_normal", seed=1))
        assert ends(other)[0] is not None

    def test_without_theory_only_a_tolerance_decides(self, grid):
        he = grid.subset(initializer="he_normal")
        bare = [
            replace(one, sites=tuple(replace(site, expected=None) for site in one.sites))
            for one in (he.select(seed=0), he.select(seed=1))
        ]
        with pytest.raises(InputError, match="the first has seed 0, the second has seed 1") as caught:
            propscope.compare(*bare)
        assert "two seeds" in caught.value.hint
        assert propscope.compare(*bare, tolerance=9.0).same

    def test_two_initializers_differ_and_the_labels_are_said(self, grid):
        found = propscope.compare(grid.subset(initializer="he_normal"), grid.subset(initializer="xavier_normal"))
        assert ends(found)[0] == "layers.0.linear"
        assert found.first("forward").ratio == pytest.approx(math.sqrt(0.5), rel=0.1)
        assert any(note.startswith("other labels: ") for note in found.notes)

    def test_a_grid_is_held_against_one_profile_of_it(self, grid):
        one = grid.select(initializer="he_normal", seed=2)
        found = propscope.compare(grid, one)
        assert (found.same, found.networks, found.same_weights) == (True, 1, True)
        assert any("only in the first" in note for note in found.notes)

    def test_two_grids_name_the_network_that_differs(self, grid):
        def larger(profile):
            if profile.labels["initializer"] == "he_normal":
                return profile
            sites = [replace(site, forward=replace(site.forward, std=site.forward.std * 2)) for site in profile.sites]
            return replace(profile, sites=tuple(sites))

        found = propscope.compare(grid, ProfileSet.of(map(larger, grid)))
        assert found.networks == 2
        assert found.first("forward").labels["initializer"] == "xavier_normal"
        assert "first forward at initializer xavier_normal: " in str(found)


def test_profiles_without_labels_that_look_like_two_seeds_are_called_so():
    found = propscope.compare(seen(net(0)), seen(net(1)))
    assert not found.same
    assert any("as in two seeds" in note for note in found.notes)
    for model in (net(0), changed(lambda model: model.fc1.weight.mul_(1.5))):
        assert not any("two seeds" in note for note in propscope.compare(seen(net(0)), seen(model)).notes)


@pytest.mark.parametrize("version", range(1, 8))
def test_a_file_of_every_version_is_compared_and_what_it_lacks_is_said(version):
    old = propscope.load(DATA / f"schema-{version}.h5")[0]
    found = propscope.compare(old, old)
    assert found.same
    known = version >= 7
    assert (found.same_batch, found.same_weights) == ((True, True) if known else (None, None))
    assert any("have no digest (an older file" in line for line in found.inputs) is not known


class TestRefused:
    @pytest.mark.parametrize("wrong", ["run.h5", 3, None, propscope.load(DATA / "schema-2-training.h5")])
    def test_what_is_no_profile(self, wrong):
        with pytest.raises(InputError, match="a and b must be two profiles"):
            propscope.compare(seen(net()), wrong)

    def test_a_run_and_a_profile(self):
        run = MonitoredRun((replace(seen(net()), labels={"step": 0}),))
        with pytest.raises(InputError, match="one of each"):
            propscope.compare(run, seen(net()))

    def test_another_model(self):
        with pytest.raises(InputError, match="no site is in both"):
            propscope.compare(seen(net()), seen(nn.Conv1d(16, 3, 1), X[:, :, None]))

    def test_a_profile_without_sites(self):
        with pytest.raises(InputError, match="the second holds no site"):
            propscope.compare(seen(net()), replace(seen(net()), sites=()))


class TestReading:
    def test_only_the_signals_that_both_have_are_said_to_agree(self):
        model = net()
        with propscope.track(model) as recorder:
            model(X)
        forward = recorder.profile()
        first = str(propscope.compare(forward, forward)).splitlines()[0]
        assert first == "the same: 7 sites agree, forward"
        assert str(propscope.compare(forward, seen(net()))).splitlines()[0] == first
        steps = monitored([3.0, 2.0])
        assert str(propscope.compare(steps, steps)).splitlines()[0] == "the same: 2 steps agree"

    def test_every_line_fits_80_columns(self, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        model = net(depth=24)
        found = propscope.compare(seen(model), seen(copy.deepcopy(model).bfloat16(), X.bfloat16()), tolerance=0)
        lines = str(found).splitlines()
        assert max(map(len, lines)) <= 80
        assert any(re.fullmatch(r"and \d+ more; --json lists all", line) for line in lines)

    def test_the_document_has_every_difference_and_nothing_that_json_lacks(self):
        import json

        found = propscope.compare(seen(net()), seen(changed(lambda model: model.fc1.weight.mul_(1.5))))
        document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert (document["same"], document["exit_code"]) == (False, 1)
        assert document["first"]["forward"]["site"] == "fc1"
        assert len(document["differences"]) == len(found.differences)
        assert document["parameters"][0]["name"] == "fc1.weight"

    def test_a_notebook_shows_an_element(self):
        found = propscope.compare(seen(net()), seen(changed(lambda model: model.fc1.weight.mul_(1.5))))
        assert "<table" in found._repr_html_()
        assert repr(found) == f"Comparison({len(found.differences)} differences)"
        assert repr(propscope.compare(seen(net()), seen(net()))) == "Comparison(the same)"
