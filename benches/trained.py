"""Is a network that has learned left in peace? A zoo of small ones is trained, then judged.

    python benches/trained.py [NAME ...]

Each network is diagnosed before its first step and after its last; nobody says which it is. Trained ones must be
healthy, and none may be taken for the other stage. Those of `SHOCKS` were broken by training, and must be found. It
writes outputs/trained.json, within a minute.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timing import write
from torch import Tensor, nn

import propscope
from propscope.networks.data_files import digits
from propscope.records import Diagnosis, NetworkProfile

Draw = Callable[[torch.Generator], Any]
Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, slots=True)
class Member:
    """A network, what it learns, and the loss below which it has learned it.

    `draw`: the batch of a step. `loss`: of the model's output and the batch. `optimizer`: "adam", or "sgd" with a
    momentum of 0.9.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Draw
    loss: Loss
    low: float
    steps: int = 300
    rate: float = 3e-3
    optimizer: str = "adam"


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said of a network before its first step and after its last, and its last loss."""

    name: str
    loss: float
    low: float
    before: Diagnosis
    after: Diagnosis


def judged(member: Member) -> Judged:
    """Train a network, and return what `diagnose` says of it before and after."""
    torch.manual_seed(0)
    model = member.make()
    before = propscope.diagnose(profiled(member, model))
    loss = train(member, model)
    return Judged(member.name, loss, member.low, before, propscope.diagnose(profiled(member, model)))


def train(member: Member, model: nn.Module, *, steps: int | None = None, rate: float | None = None) -> float:
    """Train a network in place; return the mean loss of the last tenth of the steps."""
    learning = [p for p in model.parameters() if p.requires_grad]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr),
        "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
    }
    optimizer = kinds[member.optimizer](learning, rate or member.rate)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(member.steps if steps is None else steps):
        batch = member.draw(generator)
        loss = member.loss(run(model, batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    last = torch.stack(losses[-max(len(losses) // 10, 1) :])
    return float(last.mean())


def run(model: nn.Module, batch: Any) -> Any:
    """Return the model's output on a batch: keywords where it is a mapping, else the first of a pair."""
    if isinstance(batch, dict):
        return model(**{name: value for name, value in batch.items() if name != "wanted"})
    return model(batch[0])


def profiled(member: Member, model: nn.Module) -> NetworkProfile:
    """Return the profile on a batch that training does not see."""
    batch = member.draw(torch.Generator().manual_seed(2))
    given = batch[0] if isinstance(batch, tuple) else {k: v for k, v in batch.items() if k != "wanted"}
    return propscope.profile(model, given, lambda output: member.loss(output, batch))


def sequences(generator: torch.Generator, *, rows: int = 32, length: int = 12, tokens: int = 16) -> Tensor:
    """Return arithmetic sequences modulo `tokens`: after two of them, the next is known."""
    start = torch.randint(tokens, (rows, 1), generator=generator)
    step = torch.randint(1, 4, (rows, 1), generator=generator)
    return (start + step * torch.arange(length)) % tokens


def text(generator: torch.Generator) -> dict[str, Tensor]:
    tokens = sequences(generator)
    return {"input_ids": tokens, "labels": tokens}


def masked_text(generator: torch.Generator) -> dict[str, Tensor]:
    """Return rows of one number repeated, with one place hidden, as number 16."""
    tokens = torch.randint(16, (32, 1), generator=generator).repeat(1, 12)
    at = torch.randint(tokens.shape[1], (len(tokens), 1), generator=generator)
    hidden = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, at, value=True)
    return {"input_ids": tokens.masked_fill(hidden, 16), "labels": tokens.masked_fill(~hidden, -100)}


def own_loss(output: Any, batch: Any) -> Tensor:
    """Return the loss that a model of transformers computes itself."""
    return output.loss  # type: ignore[no-any-return]


def figures(generator: torch.Generator, *, rows: int = 64) -> tuple[Tensor, Tensor]:
    """Return handwritten digits, standardized as one, shape (rows, 1, 8, 8), and their labels."""
    x, y = digits()
    assert y is not None
    chosen = torch.randint(len(x), (rows,), generator=generator)
    return ((x[chosen].float() - 4.9) / 6.0).reshape(rows, 1, 8, 8), y[chosen]


def flat_figures(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = figures(generator)
    return x.flatten(1), y


def images(generator: torch.Generator) -> dict[str, Tensor]:
    x, y = figures(generator)
    return {"pixel_values": x, "labels": y}


def lines(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return digits as eight steps of eight values."""
    x, y = figures(generator)
    return x[:, 0], y


def noisy(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return noisy digits, and where there is ink."""
    x, _ = figures(generator)
    return x + 0.3 * torch.randn(x.shape, generator=generator), (x > 0).float()


def itself(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, _ = flat_figures(generator)
    return x, x


def waves(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 4, generator=generator)
    return x, torch.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3] / 2


def other_labels(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = flat_figures(generator)
    return x, (3 * y + 1) % 10


def ring(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points on a ring of eight places, and points around the origin."""
    at = torch.randint(8, (64,), generator=generator) * (math.pi / 4)
    real = torch.stack((at.cos(), at.sin()), 1) + 0.05 * torch.randn(64, 2, generator=generator)
    fake = 0.5 * torch.randn(64, 2, generator=generator)
    return torch.cat((real, fake)), torch.cat((torch.ones(64, 1), torch.zeros(64, 1)))


def halves(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points of two well-separated clouds, with labels of -1 and 1."""
    y = torch.randint(2, (64, 1), generator=generator) * 2.0 - 1
    return torch.randn(64, 8, generator=generator).mul(0.3) + y, y


def labels_loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(output, batch[1])


def squared(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(output, batch[1])


def places(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, batch[1])


def hinge(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return a loss that is exactly zero, as is its gradient, once every margin is met."""
    return F.relu(1 - batch[1] * output).mean()


def evidence_bound(output: tuple[Tensor, Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    shown, mean, log_variance = output
    divergence = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(1).mean() / 64
    return F.mse_loss(shown, batch[1]) + 0.1 * divergence


def mlp(activation: type[nn.Module], *sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), activation()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """A residual block with two convolutions and batch norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def resnet() -> nn.Module:
    stem = (nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        *stem, *(Block(16) for _ in range(4)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


class UNet(nn.Module):
    """A U-Net of two resolutions, with group norms."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = self.pair(1, 16), self.pair(16, 32)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(16, 1, 1)
        self.back = self.pair(32, 16)

    def pair(self, inner: int, outer: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inner, outer, 3, padding=1), nn.GroupNorm(4, outer), nn.SiLU(),
            nn.Conv2d(outer, outer, 3, padding=1), nn.GroupNorm(4, outer), nn.SiLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        high = self.enter(x)
        low = self.up(self.down(F.max_pool2d(high, 2)))
        out: Tensor = self.out(self.back(torch.cat((high, low), 1)))
        return out


class Recurrent(nn.Module):
    """A recurrent layer, whose last state is classified."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


class Experts(nn.Module):
    """Two layers of four experts, of which a router chooses one for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(64, 48), nn.Linear(48, 10)
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(2))
        self.routers = nn.ModuleList(nn.Linear(48, 4) for _ in range(2))
        self.experts = nn.ModuleList(nn.ModuleList(mlp(nn.GELU, 48, 96, 48) for _ in range(4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for norm, router, experts in zip(self.norms, self.routers, self.experts, strict=True):
            normed = norm(x)
            share, chosen = router(normed).softmax(-1).max(-1)
            branch = torch.zeros_like(x)
            for number, expert in enumerate(experts.children()):
                rows = (chosen == number).nonzero()[:, 0]
                branch = branch.index_add(0, rows, share[rows, None] * expert(normed[rows]))
            x = x + branch
        out: Tensor = self.head(x)
        return out


class VAE(nn.Module):
    """A variational autoencoder: what it shows, and the mean and logarithm of the variance of its code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = mlp(nn.ReLU, 64, 96, 32), mlp(nn.ReLU, 16, 96, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encode(x).chunk(2, -1)
        drawn = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return self.decode(drawn), mean, log_variance


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank adapter, whose second factor starts at zero."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.down, self.up = (
            nn.Linear(inner.in_features, 8, bias=False),
            nn.Linear(8, inner.out_features, bias=False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + self.up(self.down(x))
        return out


def adapted() -> nn.Module:
    """Return an MLP that knows the digits, with adapters that are to learn other labels."""
    base = mlp(nn.ReLU, 64, 64, 64, 10)
    train(Member("base", lambda: base, flat_figures, labels_loss, 0.1), base, steps=200)
    return nn.Sequential(*(Adapted(layer) if isinstance(layer, nn.Linear) else layer for layer in base))


class Critic(nn.Module):
    """A GAN's discriminator, trained against its generator, which `generator` returns samples of."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = mlp(nn.ReLU, 8, 64, 64, 2)
        self.layers = mlp(lambda: nn.LeakyReLU(0.2), 2, 64, 64, 1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.generator(torch.randn(len(x), 8))
        # The generator learns from what the critic says of its samples, the critic from samples without a history.
        return self.layers(torch.cat((x, made.detach()))), self.judge(made)

    def judge(self, made: Tensor) -> Tensor:
        """Return the logits of the generator's samples, whose gradient passes to the generator alone."""
        frozen = {name: value.detach() for name, value in self.layers.named_parameters()}
        out: Tensor = torch.func.functional_call(self.layers, frozen, (made,))
        return out


def adversarial(output: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    said, of_made = output
    rows = len(said) // 2
    real = torch.cat((torch.ones(rows, 1), torch.zeros(rows, 1)))
    return F.binary_cross_entropy_with_logits(said, real) + F.softplus(-of_made).mean()


def real_ring(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = ring(generator)
    return x[:64], y[:64]


def pretrained(name: str, **config: Any) -> Callable[[], nn.Module]:
    """Return a builder of a class of transformers."""

    def make() -> nn.Module:
        import transformers

        kind = getattr(transformers, name)
        made: nn.Module = kind(kind.config_class(**config))
        return made

    return make


_TEXT = {"vocab_size": 17, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ZOO: tuple[Member, ...] = (
    Member("gpt2", pretrained("GPT2LMHeadModel", vocab_size=17, n_layer=2, n_embd=32, n_head=2, n_positions=16,
           bos_token_id=0, eos_token_id=0), text, own_loss, 1.0, steps=150, rate=1e-2),
    Member("llama", pretrained("LlamaForCausalLM", **_TEXT, num_key_value_heads=2, max_position_embeddings=16),
           text, own_loss, 0.6, steps=150, rate=1e-2),
    Member("mixtral", pretrained("MixtralForCausalLM", **_TEXT, num_key_value_heads=2, num_local_experts=4,
           num_experts_per_tok=2), text, own_loss, 0.6, steps=120, rate=1e-2),
    Member("bert", pretrained("BertForMaskedLM", **_TEXT, max_position_embeddings=16), masked_text, own_loss, 0.5,
           steps=200, rate=3e-3),
    Member("vit", pretrained("ViTForImageClassification", hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
           intermediate_size=64, image_size=8, patch_size=2, num_channels=1, num_labels=10), images, own_loss, 0.6,
           steps=250, rate=3e-3),
    Member("resnet", resnet, figures, labels_loss, 0.2, steps=100, rate=5e-3),
    Member("unet", UNet, noisy, places, 0.25, steps=100, rate=5e-3),
    Member("lstm", lambda: Recurrent(nn.LSTM), lines, labels_loss, 0.1),
    Member("gru", lambda: Recurrent(nn.GRU), lines, labels_loss, 0.1),
    Member("experts", Experts, flat_figures, labels_loss, 0.1, steps=200),
    Member("vae", VAE, itself, evidence_bound, 0.5),
    # At the balance of the two the critic's loss is 2 ln 2, the generator's ln 2.
    Member("gan", Critic, real_ring, adversarial, 2.5, rate=5e-4),
    Member("lora", adapted, other_labels, labels_loss, 0.3),
    Member("mlp-relu", lambda: mlp(nn.ReLU, 64, 64, 64, 64, 10), flat_figures, labels_loss, 0.1),
    Member("mlp-tanh", lambda: mlp(nn.Tanh, 64, 64, 64, 64, 10), flat_figures, labels_loss, 0.1),
    Member("mlp-sgd", lambda: mlp(nn.GELU, 64, 64, 64, 10), flat_figures, labels_loss, 0.1, steps=400, rate=0.1,
           optimizer="sgd"),
    Member("regression", lambda: mlp(nn.SiLU, 4, 64, 64, 1), waves, squared, 0.05),
    Member("hinge", lambda: mlp(nn.ReLU, 8, 32, 32, 1), halves, hinge, 1e-3),
    Member("autoencoder", lambda: mlp(nn.ELU, 64, 32, 8, 32, 64), itself, squared, 0.5),
)  # fmt: skip


def shocked(name: str, rate: float) -> Diagnosis:
    """Return what is said of a network that has learned, took ten steps at a far too large rate, and went on."""
    member = next(each for each in ZOO if each.name == name)
    torch.manual_seed(0)
    model = member.make()
    train(member, model)
    train(member, model, steps=10, rate=rate)
    train(member, model, steps=50)
    return propscope.diagnose(profiled(member, model))


# Adam moves every weight by the rate: ten steps at 3 turn units off, or saturate them, for good.
SHOCKS: tuple[tuple[str, float], ...] = (("mlp-relu", 3.0), ("mlp-tanh", 3.0), ("autoencoder", 3.0))


def table(found: Sequence[Judged]) -> list[str]:
    """Return a line for each network: its loss, the stages that were guessed, the verdicts."""
    lines = [f"{'network':12} {'loss':>6} {'before':13} {'verdict':9} {'after':13} verdict"]
    for each in found:
        before, after = (f"{said.stage:13} {said.verdict:9}" for said in (each.before, each.after))
        wrong = [f"{f.severity}: {f.kind} {f.first}" for f in each.after.findings if f.severity != "note"]
        lines.append(f"{each.name:12} {each.loss:6.3f} {before} {after.strip()} {'; '.join(wrong)}".rstrip())
    return lines


def main() -> None:
    """Train, judge, print, write outputs/trained.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these networks")
    wanted = parser.parse_args().names
    found = [judged(member) for member in ZOO if not wanted or member.name in wanted]
    print("\n".join(table(found)))
    shocks = {f"{name}, {rate:g}": shocked(name, rate) for name, rate in SHOCKS if not wanted or name in wanted}
    for name, said in shocks.items():
        worst = said.worst
        print(f"shocked {name}: {said.stage}, {said.verdict}, {'' if worst is None else worst.message}")
    print(write("trained", {"trained": found, "shocked": shocks}))


if __name__ == "__main__":
    main()
