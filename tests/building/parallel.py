"""A small language model, and the ways to spread it over the ranks of a process group."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

TOKENS, LENGTH, WIDTH, HEADS = 12, 6, 8, 4


class Attention(nn.Module):
    """Causal attention whose heads are those that its own weights make, so that a rank may hold some of them."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, stream):
        query, key, value = (
            one(stream).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2)
            for one in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """A block of a transformer, its nonlinearity and its sums called as functions."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.behind, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, stream):
        stream = stream + self.attention(self.norm(stream))
        return stream + self.down(F.gelu(self.up(self.behind(stream))))


class Language(nn.Module):
    """Returns logits of shape (batch, LENGTH, TOKENS) for tokens of shape (batch, LENGTH)."""

    def __init__(self, blocks=2):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS, bias=False)

    def forward(self, tokens):
        value = self.embedding(tokens)
        for block in self.blocks:
            value = block(value)
        return self.head(self.norm(value))


def tokens(step=0, *, rows=4, part=None):
    """Return the tokens of one step, the same on each rank; `part` of them where it is a slice."""
    generator = torch.Generator().manual_seed(step)
    whole = torch.randint(TOKENS, (rows, LENGTH), generator=generator)
    return whole if part is None else whole[part]


def loss_of(model, batch):
    logits = model(batch)
    return F.cross_entropy(logits.flatten(0, 1), batch.roll(-1, 1).flatten())


def data_parallel(model, kind, *, mesh=None, **options):
    """Wrap the model by "ddp", "fsdp1" or "fsdp2", with a unit of FSDP for each block; see their own options."""
    if kind == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model, **options)
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import ModuleWrapPolicy

        options = {"use_orig_params": True, **options}
        policy = ModuleWrapPolicy({Block})
        return FullyShardedDataParallel(model, auto_wrap_policy=policy, device_id=torch.device("cpu"), **options)
    from torch.distributed.fsdp import fully_shard

    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data",))
    for part in (*model.blocks, model):
        fully_shard(part, mesh=mesh, **options)
    return model


def tensor_parallel(model, mesh, *, local=True):
    """Split attention and feed-forward of each block over a mesh; `local`: the hidden units are plain tensors."""
    columns, rows = ColwiseParallel, RowwiseParallel
    for block in model.blocks:
        plan = {f"attention.{name}": columns() for name in ("query", "key", "value")}
        plan |= {"attention.out": rows(), "up": columns(use_local_output=local), "down": rows()}
        parallelize_module(block, mesh, plan)
    return model


def sequence_parallel(model, mesh):
    """Split also the stream between the layers, over the positions of the sequence."""
    columns, rows, norms = ColwiseParallel, RowwiseParallel, SequenceParallel
    split, whole = Shard(1), Replicate()
    for block in model.blocks:
        plan = {f"attention.{name}": columns() for name in ("query", "key", "value")}
        plan |= {"norm": norms(), "behind": norms(), "attention.out": rows(output_layouts=split)}
        plan["attention"] = PrepareModuleInput(input_layouts=(split,), desired_input_layouts=(whole,))
        plan |= {"up": columns(input_layouts=split), "down": rows(output_layouts=split)}
        parallelize_module(block, mesh, plan)
    plan = {"embedding": rows(input_layouts=whole, output_layouts=split), "norm": norms()}
    plan["head"] = columns(input_layouts=split, output_layouts=whole)
    return parallelize_module(model, mesh, plan)


def plain_name(name):
    """Return the name of a parameter without what wrappers add to it."""
    added = ("module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod")
    return ".".join(part for part in name.split(".") if part not in added)
