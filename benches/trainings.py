"""Small trainings that a monitor is tried on: what is trained, on what, how, and the healthy ones that look odd.

A `Training` says how; a `Run` is one of it from a seed, whose parts a fault may change between two steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from monitor import Block
from torch import Tensor, nn
from torch.optim import Optimizer
from trained import (
    VAE,
    Critic,
    Draw,
    Experts,
    Loss,
    Recurrent,
    UNet,
    adapted,
    adversarial,
    evidence_bound,
    figures,
    flat_figures,
    halves,
    hinge,
    itself,
    labels_loss,
    lines,
    mlp,
    noisy,
    other_labels,
    places,
    real_ring,
    resnet,
    sequences,
    squared,
    waves,
)

Parameters = Iterable[nn.Parameter]


@dataclass(frozen=True, slots=True)
class Training:
    """A network, what it learns, and how.

    `factor`: of the learning rate, by step. `clip`: the largest norm of the gradient, 0 for any. `scaled`: whether it
    runs in float16 with a `GradScaler`. `spread`: how different what it makes is, for one that may collapse. `begin`:
    what is done before the first step. `between`: what is done before each step. `held`: kept back while rules were
    developed.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Draw
    loss: Loss
    optimizer: Callable[[Parameters], Optimizer]
    factor: Callable[[int], float] | None = None
    clip: float = 0.0
    scaled: bool = False
    spread: Callable[[Any, Any], Tensor] | None = None
    between: Callable[[nn.Module, int], object] | None = None
    held: bool = False


class Run:
    """A training from a seed; `step` takes a step of it and returns the loss."""

    def __init__(self, training: Training, seed: int) -> None:
        torch.manual_seed(seed)
        self.training, self.seed = training, seed
        self.model = training.make()
        self.optimizer = training.optimizer(p for p in self.model.parameters() if p.requires_grad)
        self.generator = torch.Generator().manual_seed(1000 + seed)
        self.draw, self.loss, self.clip = training.draw, training.loss, training.clip
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=300) if training.scaled else None
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        # What a fault does in each step: before it, and when the gradients are there.
        self.before: Callable[[], object] = lambda: None
        self.behind: Callable[[], object] = lambda: None
        self.clears = True

    def step(self, number: int) -> Tensor:
        """Take a step."""
        if self.training.between is not None:
            self.training.between(self.model, number)
        if self.training.factor is not None:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.training.factor(number)
        self.before()
        batch = self.draw(self.generator)
        loss = self.losses(batch)
        if self.clears:
            self.optimizer.zero_grad()
        if self.scaler is None:
            loss.backward()
        else:
            self.scaler.scale(loss).backward()
        self.behind()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()

    def losses(self, batch: Any) -> Tensor:
        """Return the loss of a batch."""
        if self.scaler is None:
            return self.loss(self.model(batch[0]), batch)
        with torch.autocast("cpu", torch.float16):
            return self.loss(self.model(batch[0]).float(), batch)

    @torch.no_grad()
    def clean(self) -> dict[str, float]:
        """Return how a copy does on sound batches: its loss in training and in use, its spread, the lowest entropy."""
        generator = torch.Generator().manual_seed(77)
        batches = [self.training.draw(generator) for _ in range(8)]
        state = torch.get_rng_state()
        kept, self.model = self.model, copy.deepcopy(self.model)
        loss, self.loss = self.loss, self.training.loss
        found = {}
        for mode in (True, False):
            torch.manual_seed(5)
            self.model.train(mode)
            with Entropies() as entropies:
                found["training" if mode else "in use"] = float(sum(self.losses(batch) for batch in batches)) / 8
            if entropies.seen:
                found["entropy"] = min(entropies.seen)
        if self.training.spread is not None:
            found["spread"] = float(self.training.spread(self.model, batches[0]).std(0).norm())
        self.model, self.loss = kept, loss
        torch.set_rng_state(state)
        return found


class Entropies:
    """Keeps the mean entropy of the rows of each attention that runs inside its block."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self._inner = F.scaled_dot_product_attention

    def __enter__(self) -> Entropies:
        F.scaled_dot_product_attention = self._attend  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        F.scaled_dot_product_attention = self._inner

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, *given: Any, **more: Any) -> Tensor:
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if more.get("is_causal"):
            logits = logits + torch.full(logits.shape[-2:], -1e9).triu(1)
        self.seen.append(float(torch.special.entr(logits.softmax(-1)).sum(-1).mean()))
        return self._inner(q, k, v, *given, **more)


class Decoder(nn.Module):
    """A GPT-2 of width 32."""

    def __init__(self, tokens: int = 32, length: int = 24, *, depth: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, 32), nn.Embedding(length, 32)
        nn.init.normal_(self.tokens.weight, std=0.1)
        nn.init.normal_(self.places.weight, std=0.1)
        self.blocks, self.norm = nn.Sequential(*(Block(32, 2) for _ in range(depth))), nn.LayerNorm(32)
        self.head = nn.Linear(32, tokens, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(stream)))
        return logits


class Viewer(nn.Module):
    """A vision transformer of two layers, with norms behind the branches, as in the first transformers."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.enter, self.places = nn.Linear(8, 32), nn.Parameter(0.1 * torch.randn(8, 32))
        layer = partial(nn.TransformerEncoderLayer, 32, 2, 64, dropout=dropout, batch_first=True)
        self.layers, self.head = nn.ModuleList(layer() for _ in range(2)), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x) + self.places
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(x.mean(1))
        return out


class Twins(nn.Module):
    """BYOL: predicts what a slow copy of its encoder says of another view. `stopped`: the copy gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), *mlp(nn.ReLU, 64, 32, 16))
        self.predictor, self.slow = mlp(nn.ReLU, 16, 32, 16), copy.deepcopy(self.encoder).requires_grad_(False)
        self.stopped = True

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        one, two = views.chunk(2)
        with torch.no_grad():
            for mine, its in zip(self.encoder.parameters(), self.slow.parameters(), strict=True):
                its.lerp_(mine, 0.03)
        target = self.slow if self.stopped else self.encoder
        wanted = [target(view) for view in (two, one)]
        wanted = [each.detach() for each in wanted] if self.stopped else wanted
        return torch.cat([self.predictor(self.encoder(view)) for view in (one, two)]), torch.cat(wanted)


class Contrasted(nn.Module):
    """SimCLR: an encoder whose two views of a sample are to be nearer than those of others."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projector = mlp(nn.ReLU, 64, 64, 32), mlp(nn.ReLU, 32, 32, 16)

    def forward(self, views: Tensor) -> Tensor:
        out: Tensor = self.projector(self.encoder(views))
        return out


def views(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return two views of each digit, with noise and hidden pixels, one half after the other."""
    x, y = flat_figures(generator)
    both = torch.cat((x, x))
    hidden = torch.rand(both.shape, generator=generator) < 0.2
    return (both + 0.3 * torch.randn(both.shape, generator=generator)).masked_fill(hidden, 0.0), y


def alike(output: tuple[Tensor, Tensor], batch: Any) -> Tensor:
    said, wanted = output
    return 2 - 2 * F.cosine_similarity(said, wanted).mean()


def nearest(output: Tensor, batch: Any) -> Tensor:
    one = F.normalize(output, dim=1)
    rows = len(one)
    likeness = (one @ one.T / 0.3).masked_fill(torch.eye(rows, dtype=torch.bool), -1e9)
    return F.cross_entropy(likeness, (torch.arange(rows) + rows // 2) % rows)


def mislabelled(draw: Draw, share: float, *, rows: int | None = None) -> Draw:
    """Return a draw of so many rows whose labels are random for a share of them."""

    def drawn(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = draw(generator)
        x, y = x[:rows], y[:rows]
        return x, torch.where(
            torch.rand(y.shape, generator=generator) < share, torch.randint(10, y.shape, generator=generator), y
        )

    return drawn


def sentences(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return sequences, of whose tokens a fifth is random, and the tokens that follow."""
    clean = sequences(generator, rows=16, length=25, tokens=32)
    random = torch.randint(32, clean.shape, generator=generator)
    text = torch.where(torch.rand(clean.shape, generator=generator) < 0.2, random, clean)
    return text[:, :-1], text[:, 1:]


def tokens_loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), batch[1].flatten())


def sums(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return 60 of the pairs of numbers below 11, the same ones each time, and their sum modulo 11: they are learned by
    heart long before the sum is understood.
    """
    pairs = torch.cartesian_prod(torch.arange(11), torch.arange(11))
    chosen = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:60]]
    return F.one_hot(chosen, 11).float().flatten(1), chosen.sum(1) % 11


def arms(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return situations, and what each of four arms would pay in it, mostly nothing."""
    x = torch.randn(16, 8, generator=generator)
    return x, (x[:, :4] > 1.2).float() * 5 + 0.5 * torch.randn(16, 4, generator=generator)


def policy(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of REINFORCE, which is around zero and says nothing of what was learned."""
    chosen = torch.distributions.Categorical(logits=output)
    arm = chosen.sample()
    paid = batch[1].gather(1, arm[:, None])[:, 0]
    loss: Tensor = -(chosen.log_prob(arm) * (paid - paid.mean())).mean() - 0.01 * chosen.entropy().mean()
    return loss


def rare(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return bags of words, most of which are rare, and which of ten the first one belongs to."""
    words = (400 * torch.rand(32, 6, generator=generator) ** 4).long()
    return words, words[:, 0] % 10


def adam(rate: float, **more: Any) -> Callable[[Parameters], Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate, **more)


def adamw(rate: float, **more: Any) -> Callable[[Parameters], Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate, **more)


def sgd(rate: float, **more: Any) -> Callable[[Parameters], Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, **more)


def cosine(warm: int, whole: int) -> Callable[[int], float]:
    """Return a warm-up and half a cosine, down to a hundredth, again and again."""

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.01 + 0.99 * (1 + math.cos(math.pi * ((step - warm) % whole) / whole)) / 2

    return factor


def stairs(*steps: int) -> Callable[[int], float]:
    return lambda step: float(0.1 ** sum(step >= each for each in steps))


def one_cycle(peak: int, whole: int) -> Callable[[int], float]:
    return lambda step: 0.04 + 0.96 * max(0.0, step / peak if step < peak else (whole - step) / (whole - peak))


def thawing(model: nn.Module, step: int) -> None:
    """Freeze the first layers, and let them go one after another."""
    for at, layer in enumerate(model.children()):
        layer.requires_grad_(step >= 200 * (2 - at // 2))


def known(training: Training, steps: int) -> Callable[[], nn.Module]:
    """Return a maker of the model of a training that went on for so many steps."""

    def make() -> nn.Module:
        run = Run(training, 50)
        for number in range(steps):
            run.step(number)
        return run.model

    return make


def with_dropout(share: float) -> nn.Sequential:
    layers = [(nn.Linear(inner, 64), nn.ReLU(), nn.Dropout(share)) for inner in (64, 64, 64)]
    return nn.Sequential(*(one for layer in layers for one in layer), nn.Linear(64, 10))


_RELU, _TANH = (partial(mlp, activation, 64, 64, 64, 64, 10) for activation in (nn.ReLU, nn.Tanh))
_LABELS = mislabelled(flat_figures, 0.1)
# fmt: off
TRAININGS = (
    Training("gpt2", Decoder, sentences, tokens_loss, adamw(2e-3), clip=1.0),
    Training("resnet", resnet, mislabelled(figures, 0.1, rows=32), labels_loss, sgd(0.02, weight_decay=5e-4)),
    Training("lstm", partial(Recurrent, nn.LSTM), mislabelled(lines, 0.1), labels_loss, adam(3e-3), clip=1.0),
    Training("mlp", _RELU, _LABELS, labels_loss, adam(1e-3)),
    Training("autoencoder", lambda: mlp(nn.ReLU, 64, 48, 12, 48, 64), itself, squared, adam(2e-3)),
    Training("gan", Critic, real_ring, adversarial, adam(5e-4, betas=(0.5, 0.99)),
             spread=lambda model, batch: model.generator(torch.randn(256, 8))),
    Training("byol", Twins, views, alike, adam(3e-3),
             spread=lambda model, batch: F.normalize(model.encoder(batch[0]))),
    Training("half", _RELU, _LABELS, labels_loss, adam(1e-3), scaled=True),
    Training("viewer", Viewer, mislabelled(lines, 0.1), labels_loss, adamw(1e-3, weight_decay=0.05), held=True),
    Training("unet", UNet, noisy, places, adamw(2e-3), held=True),
    Training("vae", VAE, itself, evidence_bound, adam(1e-3), held=True),
    Training("tanh", _TANH, _LABELS, labels_loss, sgd(0.03), held=True),
    Training("gru", partial(Recurrent, nn.GRU), mislabelled(lines, 0.1), labels_loss,
             lambda parameters: torch.optim.RMSprop(parameters, lr=5e-4), held=True),
    Training("simclr", Contrasted, views, nearest, adam(1e-3), held=True,
             spread=lambda model, batch: F.normalize(model(batch[0]))),
)
NAMED = {training.name: training for training in TRAININGS}
HEALTHY = (
    replace(NAMED["gpt2"], name="gpt2, warm-up and cosine", factor=cosine(100, 900)),
    replace(NAMED["resnet"], name="resnet, rate falls in steps", factor=stairs(500, 750)),
    replace(NAMED["lstm"], name="lstm, clipped"),
    Training("mlp, batch of 4, two labels of five wrong", _RELU, mislabelled(flat_figures, 0.4, rows=4), labels_loss,
             adam(1e-3)),
    replace(NAMED["autoencoder"], name="autoencoder, warm restarts", factor=cosine(1, 250)),
    replace(NAMED["gan"], name="gan"),
    replace(NAMED["byol"], name="byol"),
    replace(NAMED["half"], name="half, scale grows"),
    Training("experts", Experts, flat_figures, labels_loss, adam(3e-3)),
    Training("hinge, loss reaches zero", lambda: mlp(nn.ReLU, 8, 32, 32, 1), halves, hinge, adam(1e-3)),
    Training("sums, known by heart", lambda: mlp(nn.ReLU, 22, 128, 11), sums, labels_loss,
             adamw(3e-3, weight_decay=1.0)),
    Training("policy gradient", lambda: mlp(nn.Tanh, 8, 32, 32, 4), arms, policy, adam(3e-3)),
    Training("mlp, dropout of one half", lambda: with_dropout(0.5), flat_figures, labels_loss,
             adamw(2e-3, weight_decay=0.1), factor=lambda step: 0.997**step),
    replace(NAMED["viewer"], name="viewer, dropout, warm-up", make=lambda: Viewer(0.1), factor=cosine(200, 800),
            held=True),
    replace(NAMED["unet"], name="unet", held=True),
    replace(NAMED["vae"], name="vae, warm restarts", factor=cosine(50, 300), held=True),
    replace(NAMED["tanh"], name="tanh, one cycle", factor=one_cycle(300, 1000), optimizer=sgd(0.1), held=True),
    replace(NAMED["gru"], name="gru", held=True),
    replace(NAMED["simclr"], name="simclr", held=True),
    Training("adapters", adapted, other_labels, labels_loss, adam(3e-3), held=True),
    replace(NAMED["mlp"], name="mlp, layers thaw", between=thawing, held=True),
    Training("words, mostly rare", lambda: nn.Sequential(nn.EmbeddingBag(400, 24), nn.ReLU(), nn.Linear(24, 10)), rare,
             labels_loss, adam(3e-3), held=True),
    replace(NAMED["mlp"], name="mlp, had learned", make=known(NAMED["mlp"], 1200), draw=flat_figures,
            optimizer=adam(1e-4), held=True),
    Training("waves, batch of 8", lambda: mlp(nn.SiLU, 4, 64, 64, 1),
             lambda generator: tuple(one[:8] for one in waves(generator)), squared,
             lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3), held=True),
    replace(NAMED["resnet"], name="resnet, batch of 2", draw=mislabelled(figures, 0.1, rows=2), optimizer=sgd(0.002),
            held=True),
)
# fmt: on
