"""Small models of fifteen families, written as their papers or libraries write them, and an input for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, TOKENS, WORDS = 8, 4, 12
Batch = tuple[Any, ...]


class Net(nn.Module):
    """Modules by name, and a forward function of the net and its inputs."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Any) -> Any:
        return self.run(self, *inputs)


def linear(out: int = WIDTH) -> nn.Linear:
    return nn.Linear(WIDTH, out)


def resnet() -> tuple[nn.Module, Batch]:
    def block(net: Any, x: Tensor) -> Tensor:
        out = F.relu(net.bn1(net.conv1(x)), inplace=True)
        out = net.bn2(net.conv2(out))
        out += x if net.down is None else net.down(x)
        return F.relu(out, inplace=True)

    def conv(width: int) -> nn.Conv2d:
        return nn.Conv2d(width, 4, 3, padding=1, bias=False)

    def made(width: int, *, down: bool) -> Net:
        norms = {"bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(4)}
        net = Net(block, conv1=conv(width), conv2=conv(4), **norms)
        net.down = nn.Sequential(nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4)) if down else None
        return net

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.fc(torch.flatten(F.adaptive_avg_pool2d(net.layer(net.stem(x)), 1), 1))

    layer = nn.Sequential(made(4, down=False), made(4, down=True))
    return Net(forward, stem=nn.Conv2d(3, 4, 3), layer=layer, fc=nn.Linear(4, 2)), (torch.randn(2, 3, 8, 8),)


def unet() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor) -> Tensor:
        one = F.relu(net.down1(x))
        two = F.relu(net.down2(one))
        up = net.up(net.middle(F.max_pool2d(two, 2)))
        up = F.interpolate(net.join(torch.cat([two, up], 1)), scale_factor=2)
        return net.out(torch.cat([one, up], 1))

    def conv(before: int, after: int, step: int = 1) -> nn.Conv2d:
        return nn.Conv2d(before, after, 3, padding=1, stride=step)

    parts = {"down1": conv(1, 4), "down2": conv(4, 4, 2), "middle": conv(4, 4), "up": nn.ConvTranspose2d(4, 4, 2, 2)}
    return Net(forward, **parts, join=conv(8, 4), out=conv(8, 1)), (torch.randn(2, 1, 8, 8),)


def mobilenet() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor) -> Tensor:
        h = F.hardswish(net.expand(x))
        h = F.hardswish(net.depthwise(h))
        gate = F.hardsigmoid(net.up(F.relu(net.down(F.adaptive_avg_pool2d(h, 1)))))
        return x + net.norm(net.project(h * gate))

    parts = {"expand": nn.Conv2d(4, 8, 1), "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8)}
    parts |= {"down": nn.Conv2d(8, 2, 1), "up": nn.Conv2d(2, 8, 1), "project": nn.Conv2d(8, 4, 1)}
    return Net(forward, **parts, norm=nn.BatchNorm2d(4)), (torch.randn(2, 4, 6, 6),)


def gpt() -> tuple[nn.Module, Batch]:
    def forward(net: Any, words: Tensor) -> Tensor:
        h = net.wte(words) + net.wpe(torch.arange(TOKENS))
        query, key, value = net.attn(net.ln1(h)).split(WIDTH, -1)
        query, key, value = (part.view(2, TOKENS, 2, -1).transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(-1, -2) / (WIDTH / 2) ** 0.5
        weights = scores.masked_fill(net.mask == 0, float("-inf")).softmax(-1)
        h = h + net.proj((weights @ value).transpose(1, 2).reshape(2, TOKENS, WIDTH))
        h = h + net.fc2(F.gelu(net.fc1(net.ln2(h))))
        return net.head(net.ln_f(h))

    embeddings = {"wte": nn.Embedding(WORDS, WIDTH), "wpe": nn.Embedding(TOKENS, WIDTH)}
    norms = {name: nn.LayerNorm(WIDTH) for name in ("ln1", "ln2", "ln_f")}
    parts = {"attn": linear(3 * WIDTH), "proj": linear(), "fc1": linear(), "fc2": linear()}
    net = Net(forward, **embeddings, **norms, **parts, head=nn.Linear(WIDTH, WORDS, bias=False))
    net.head.weight = net.wte.weight  # type: ignore[union-attr, assignment]
    net.register_buffer("mask", torch.tril(torch.ones(TOKENS, TOKENS)))
    return net, (torch.randint(WORDS, (2, TOKENS)),)


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def llama() -> tuple[nn.Module, Batch]:
    def forward(net: Any, words: Tensor) -> Tensor:
        h = net.embed(words)
        angles = torch.outer(torch.arange(TOKENS).float(), torch.ones(WIDTH))
        cos, sin = angles.cos(), angles.sin()
        normed = net.norm1(h)
        query, key = rotated(net.q(normed), cos, sin), rotated(net.k(normed), cos, sin)
        h = h + net.o(F.scaled_dot_product_attention(query, key, net.v(normed), is_causal=True))
        normed = net.norm2(h)
        h = h + net.down(F.silu(net.gate(normed)) * net.up(normed))
        return net.head(net.norm(h))

    parts = {name: linear() for name in ("q", "k", "v", "o", "gate", "up", "down")}
    norms = {name: RMSNorm() for name in ("norm1", "norm2", "norm")}
    net = Net(forward, embed=nn.Embedding(WORDS, WIDTH), **norms, **parts, head=linear(WORDS))
    return net, (torch.randint(WORDS, (2, TOKENS)),)


def phi() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor) -> Tensor:
        normed = net.norm(x)
        query, key = net.q_norm(net.q(normed)), net.k_norm(net.k(normed))
        attention = net.dense(F.scaled_dot_product_attention(query, key, net.v(normed)))
        return attention + net.fc2(F.gelu(net.fc1(normed))) + x

    norms = {name: nn.LayerNorm(WIDTH) for name in ("norm", "q_norm", "k_norm")}
    parts = {name: linear() for name in ("q", "k", "v", "dense", "fc1", "fc2")}
    return Net(forward, **norms, **parts), (torch.randn(2, TOKENS, WIDTH),)


def bert() -> tuple[nn.Module, Batch]:
    def forward(net: Any, words: Tensor, mask: Tensor) -> Tensor:
        h = net.norm0(net.words(words) + net.places(torch.arange(TOKENS)[None]))
        bias = (1.0 - mask[:, None, :].float()) * torch.finfo(torch.float32).min
        scores = torch.matmul(net.q(h), net.k(h).transpose(-1, -2)) / WIDTH**0.5 + bias
        h = net.norm1(net.o(torch.matmul(net.drop(F.softmax(scores, -1)), net.v(h))) + h)
        h = net.norm2(net.fc2(F.gelu(net.fc1(h))) + h)
        return net.pooler(h[:, 0]).tanh()

    parts = {name: linear() for name in ("q", "k", "v", "o", "fc1", "fc2", "pooler")}
    norms = {name: nn.LayerNorm(WIDTH) for name in ("norm0", "norm1", "norm2")}
    embeddings = {"words": nn.Embedding(WORDS, WIDTH), "places": nn.Embedding(TOKENS, WIDTH)}
    net = Net(forward, **embeddings, **norms, **parts, drop=nn.Dropout(0.1))
    return net, (torch.randint(WORDS, (2, TOKENS)), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]))


def vit() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor) -> Tensor:
        patches = net.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([net.token.expand(2, -1, -1), patches], 1) + net.place
        h = h + net.attn(net.norm1(h), net.norm1(h), net.norm1(h), need_weights=False)[0] * net.gamma
        h = h + net.mlp(net.norm2(h))
        return net.head(net.norm(h)[:, 0])

    norms = {name: nn.LayerNorm(WIDTH) for name in ("norm1", "norm2", "norm")}
    attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    mlp = nn.Sequential(linear(), nn.GELU(), linear())
    net = Net(forward, patch=nn.Conv2d(3, WIDTH, 4, 4), **norms, attn=attention, mlp=mlp, head=linear(2))
    net.token, net.place = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 5, WIDTH))
    net.gamma = nn.Parameter(torch.ones(WIDTH))
    return net, (torch.randn(2, 3, 8, 8),)


def lstm() -> tuple[nn.Module, Batch]:
    def forward(net: Any, words: Tensor) -> Tensor:
        values, (state, _) = net.lstm(net.drop(net.embed(words)))
        return net.head(torch.cat([values[:, -1], state[-1]], -1))

    recurrent = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True)
    head = nn.Linear(2 * WIDTH, 2)
    net = Net(forward, embed=nn.Embedding(WORDS, WIDTH), drop=nn.Dropout(0.1), lstm=recurrent, head=head)
    return net, (torch.randint(WORDS, (2, TOKENS)),)


def cells() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor) -> Tensor:
        state, seen = torch.zeros(2, WIDTH), []
        for step in x.unbind(1):
            state = net.cell(step, state)
            seen.append(state)
        return net.head(torch.stack(seen, 1).mean(1))

    return Net(forward, cell=nn.GRUCell(WIDTH, WIDTH), head=linear(2)), (torch.randn(2, 3, WIDTH),)


def experts() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor) -> Tensor:
        weights, chosen = net.router(x).softmax(-1).topk(1, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(net.experts):
            rows = (chosen[:, 0] == number).nonzero(as_tuple=True)[0]
            out.index_add_(0, rows, expert(x[rows]) * weights[rows])
        return net.head(x + out)

    parts = nn.ModuleList(nn.Sequential(linear(), nn.SiLU()) for _ in range(2))
    net = Net(forward, router=linear(2), experts=parts, head=linear(2))
    with torch.no_grad():
        net.router.weight.zero_()[0, 0] = 9.0  # type: ignore[operator, union-attr]
    x = torch.randn(4, WIDTH)
    x[:, 0] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    return net, (x,)


def mamba() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor) -> Tensor:
        h, gate = net.into(net.norm(x)).chunk(2, -1)
        h = F.silu(net.conv(h.transpose(1, 2))[..., :TOKENS].transpose(1, 2))
        step = F.softplus(net.step(h))
        keep = torch.exp(step * -torch.exp(net.log_a))
        state, seen = torch.zeros(2, WIDTH), []
        for at in range(TOKENS):
            state = keep[:, at] * state + (step * h)[:, at]
            seen.append(state)
        return x + net.out((torch.stack(seen, 1) + h * net.skip) * F.silu(gate))

    conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=2, groups=WIDTH)
    net = Net(forward, norm=RMSNorm(), into=linear(2 * WIDTH), conv=conv, step=linear(), out=linear())
    net.log_a, net.skip = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.ones(WIDTH))
    return net, (torch.randn(2, TOKENS, WIDTH),)


def graph() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor, edges: Tensor, groups: Tensor) -> Tensor:
        h = net.embed(x)
        for layer in net.layers:
            message = F.relu(layer(torch.cat([h[edges[0]], h[edges[1]]], -1)))
            gathered = torch.zeros_like(h).index_add_(0, edges[1], message)
            h = h + gathered
        return net.head(torch.zeros(2, WIDTH).scatter_add_(0, groups[:, None].expand(-1, WIDTH), h))

    layers = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))
    edges, groups = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), torch.tensor([0, 0, 1, 1])
    return Net(forward, embed=linear(), layers=layers, head=linear(1)), (torch.randn(4, WIDTH), edges, groups)


def siamese() -> tuple[nn.Module, Batch]:
    def forward(net: Any, one: Tensor, other: Tensor) -> Tensor:
        left, right = net.encoder(one), net.encoder(other)
        with torch.no_grad():
            target = net.projector(right)
        return F.cosine_similarity(net.head(net.projector(left)), target) + net.bias(left - right.detach())[:, 0]

    encoder = nn.Sequential(linear(), nn.ReLU(inplace=True))
    net = Net(forward, encoder=encoder, projector=linear(), head=linear(), bias=linear(1))
    return net, (torch.randn(2, WIDTH), torch.randn(2, WIDTH))


def controlnet() -> tuple[nn.Module, Batch]:
    def forward(net: Any, x: Tensor, hint: Tensor) -> Tensor:
        h = F.silu(net.first(x))
        copied = F.silu(net.copied(h + net.zero_in(hint)))
        h = F.silu(net.second(h))
        return net.out(h + net.zero_out(copied))

    def conv(*, zero: bool = False) -> nn.Conv2d:
        made = nn.Conv2d(4, 4, 1)
        if zero:
            nn.init.zeros_(made.weight)
        return made

    parts = {name: conv() for name in ("first", "second", "copied", "out")}
    net = Net(forward, **parts, zero_in=conv(zero=True), zero_out=conv(zero=True))
    for name in ("first", "second"):
        getattr(net, name).requires_grad_(False)
    return net, (torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5))


FAMILIES: Sequence[Callable[[], tuple[nn.Module, Batch]]] = (
    resnet, unet, mobilenet, gpt, llama, phi, bert, vit, lstm, cells, experts, mamba, graph, siamese, controlnet,
)  # fmt: skip
