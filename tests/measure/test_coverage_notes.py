"""The coverage tells what did not run from what never does, and names weights that are not registered."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import propscope

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def notes(profile: propscope.NetworkProfile, what: str) -> dict[str, str]:
    return {note.name: note.reason for note in profile.coverage if note.what == what}


class Skips(nn.Module):
    """Runs `odd` in every second pass, and `unused` never."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.odd, self.unused, self.number = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.number += 1
        x = self.always(x)
        return self.odd(x) if self.number % 2 else x


def test_a_module_that_did_not_run_in_this_pass_is_told_from_one_that_never_ran():
    model = Skips()
    model(X)
    assert notes(propscope.profile(model, X), "module") == {
        "odd": "Linear did not run in this pass; the code calls it in other cases",
        "unused": "Linear did not run in this pass",
    }
    with propscope.track(model) as recorder:
        for _ in range(5):
            model(X)
        found = notes(recorder.profile(), "module")
    assert found == {"odd": "Linear ran in 3 of 5 passes", "unused": "Linear never ran in 5 passes"}


def test_a_part_is_only_missed_in_passes_around_it():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4)), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    with propscope.track(model) as recorder:
        model["a"](X), model["a"](X), model["b"](X)
    assert notes(recorder.profile(), "module") == {"c": "Linear was never called"}


def test_parameters_that_took_part_without_a_call_are_said():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.direct, self.weight_only, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(F.linear(torch.relu(self.direct.forward(x)), self.weight_only.weight))

    found = notes(propscope.profile(Around(), X), "module")
    for name in ("direct", "weight_only"):
        assert "was not called, but its parameters took part in " in found[name]
        assert ".forward" in found[name]
    assert found["unused"] == "Linear did not run in this pass"


class ListOfLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 4) for _ in range(4)]
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


class Attribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.scale = torch.ones(4, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.scale)


def test_weights_that_are_no_parameters_are_listed():
    found = notes(propscope.profile(ListOfLayers(), X), "operation")
    assert found["linear"] == (
        "weights of 4 linear operations are not registered: trainable tensors (4,4) that are not the model's parameters"
    )
    assert notes(propscope.profile(Attribute(), X), "operation")["mul"].startswith(
        "weights of 1 mul operation are not registered: trainable tensors (4)"
    )


def test_weights_of_another_model_are_listed_once_over_many_passes():
    other = nn.Conv2d(3, 2, 1)

    class Borrows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, other.weight, other.bias).relu()

    model = Borrows()
    with propscope.track(model) as recorder:
        for _ in range(4):
            model(torch.randn(2, 3, 4, 4))
    assert "weights of 1 conv2d operation are not registered" in notes(recorder.profile(), "operation")["conv2d"]


@pytest.mark.parametrize("model", [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())])
def test_registered_weights_and_inputs_that_require_a_gradient_are_not(model):
    profile = propscope.profile(model, X.clone().requires_grad_())
    assert "not registered" not in " ".join(note.reason for note in profile.coverage)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))
        self.q = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.randn(4, 4), requires_grad=False)
        self.kernel = nn.Parameter(torch.randn(2, 3, 1))
        self.tied = self.w

    def forward(self, x: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(x @ self.w, F.linear(x, self.q.weight), torch.matmul(x, self.frozen))
        return F.conv1d(attended, self.kernel).relu()


def test_parameters_given_to_functions_are_known_to_the_sites():
    profile = propscope.profile(Attention(), torch.randn(2, 3, 4))
    assert set(profile["scaled_dot_product_attention"].parameters) == {"w", "tied", "q.weight", "frozen"}
    used = {name for site in profile.sites for name in site.parameters}
    assert used == {"w", "tied", "q.weight", "frozen", "kernel"}


class Mixture(nn.Module):
    """Two experts: the first sees a quarter of the tokens, the second the others, by one way of choosing."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2))
        self.head = nn.Linear(4, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        tokens = x.reshape(-1, 4)
        first = torch.arange(len(tokens)) % 4 == 0
        out = torch.zeros_like(tokens)
        for expert, chosen in zip(self.experts, (first, ~first), strict=True):
            index = chosen.nonzero()[:, 0]
            if self.how == "mask":
                out[chosen] = expert(tokens[chosen])
            elif self.how == "index":
                out.index_add_(0, index, expert(tokens[None, index].reshape(-1, 4)))
            else:
                out = out.index_add(0, index, expert(tokens.index_select(0, index)))
        return self.head(out.reshape(x.shape))


@pytest.mark.parametrize("how", ["mask", "index", "select"])
def test_an_expert_knows_its_share_of_the_tokens(how):
    profile = propscope.profile(Mixture(how), torch.randn(2, 8, 4))
    for place in (0, 1, 2):
        assert profile[f"experts.0.{place}"].token_share == 0.25
        assert profile[f"experts.1.{place}"].token_share == 0.75
    assert profile["norm"].token_share is profile["head"].token_share is profile["input"].token_share is None


def test_slices_and_pooling_are_no_routing():
    class Pools(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x)[:, 0])

    assert propscope.profile(Pools(), torch.randn(2, 8, 4))["head"].token_share is None


def test_a_gate_and_a_scalar_output_have_one_feature():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.body = nn.Linear(4, 1), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (torch.sigmoid(self.gate(x)) * self.body(x)).sum()

    profile = propscope.profile(Gated(), X)
    assert {site.name: site.features for site in profile.sites} == {
        "input": 4, "gate": 1, "gate.sigmoid": 1, "body": 4, "": 1,
    }  # fmt: skip


class Functions(nn.Module):
    """Calls functions whose results are shown by other sites, and two that none shows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.weight, self.last = nn.Linear(4, 4), nn.Parameter(torch.eye(4)), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        entering = F.relu(F.linear(x, self.layer.weight))
        of_a_view = F.gelu(torch.matmul(entering, self.weight).t())
        in_part = torch.matmul(of_a_view, of_a_view.t())[:2]
        written = F.linear(in_part, in_part)
        written += 1.0
        return self.last(torch.tanh(in_part).sin().exp()) * torch.relu(written).mean()


def test_an_operation_is_missed_only_where_no_site_shows_its_result():
    expected = dict.fromkeys(("matmul", "linear", "sin", "mean"), "called once between modules, not recorded")
    assert notes(propscope.profile(Functions(), X), "operation") == expected
    with propscope.track(model := Functions(), exclude="relu$") as recorder, torch.no_grad():
        model(X), model(X)
    found = notes(recorder.profile(), "operation")
    assert found == {name: reason.replace("once", "2 times") for name, reason in expected.items()}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_of_a_scripted_model_one_thing_is_said():
    profile = propscope.profile(torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh())), X)
    assert [note.reason for note in profile.coverage] == ["TorchScript calls no hooks: nothing inside was recorded"]
