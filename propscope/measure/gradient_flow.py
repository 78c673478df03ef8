"""Where the gradient of each parameter is lost, and after how many steps of gradient descent it gets one.

Nothing is trained. The operations of a traced pass are read as sums of products, and three-valued flags are followed
through them: whether a value is exactly zero, and whether a gradient arrives. A factor of a product receives a gradient
if the product does and every other factor is not zero; a function of one value passes it on unless its slope there is
zero. Each step makes every trainable parameter with a gradient non-zero, whatever its size; that is repeated until
nothing changes. What was measured in the pass overrules what follows from the rules, and where the two differ, as at a
ReLU that is off on every sample, nothing is foretold once something before it has learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from propscope.measure.saturation import at_zero
from propscope.measure.signal_graph import Node
from propscope.records.network import GradientLoss, Outlook

# What a gradient is followed for; a chain of zero factors as long as this is not met in practice.
_STEPS = 32
# Products of all that they are given.
_PRODUCTS = frozenset((
    "mul", "multiply", "matmul", "bmm", "mm", "mv", "dot", "vdot", "inner", "outer", "ger", "einsum", "tensordot",
    "kron", "cross", "chain_matmul", "multi_dot", "linalg_multi_dot",
))  # fmt: skip
# x, weight and bias, in this order.
_LAYERS = ("linear", "conv", "_convolution", "convolution")
# bias, and two factors.
_ADDED_PRODUCTS = frozenset(("addmm", "addmv", "addr", "addbmm", "baddbmm", "addcmul", "addcdiv"))
_QUOTIENTS = frozenset(("div", "divide", "truediv", "true_divide"))
_NORMS = frozenset(("layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm", "batch_norm"))
_ATTENTION = "scaled_dot_product_attention"
_HEADS = "multi_head_attention_forward"
# The value is that of what is taken or moved; the rest says where.
_MOVES = frozenset((
    "", "view", "reshape", "permute", "transpose", "t", "T", "mT", "H", "mH", "contiguous", "clone", "to", "type",
    "float", "double", "half", "bfloat16", "type_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "expand",
    "expand_as", "view_as", "reshape_as", "broadcast_to", "broadcast_tensors", "repeat", "repeat_interleave", "tile",
    "chunk", "split", "tensor_split", "unbind", "narrow", "select", "getitem", "movedim", "moveaxis", "swapaxes",
    "roll", "flip", "pad", "index_select", "gather", "take", "take_along_dim", "unfold", "fold", "masked_select",
    "embedding", "embedding_bag", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout",
    "alpha_dropout", "feature_alpha_dropout", "neg", "negative", "positive", "mean", "sum", "nanmean", "nansum",
    "cumsum", "trace", "diag", "diagonal", "diag_embed", "tril", "triu", "real", "imag", "conj", "view_as_real",
    "view_as_complex", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "max", "min", "amax", "amin", "topk", "sort", "interpolate",
    "upsample", "pixel_shuffle", "pixel_unshuffle", "grid_sample", "fft", "ifft", "rfft", "irfft", "detach", "data",
    "identity", "as_strided", "rot90", "nan_to_num", "requires_grad_", "masked_fill", "copy",
))  # fmt: skip
_SUMS = frozenset((
    "add", "sub", "subtract", "rsub", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "where",
    "setitem", "index_put", "index_add", "index_copy", "scatter", "scatter_add", "scatter_reduce", "masked_scatter",
    "maximum", "minimum", "fmax", "fmin", "lerp", "atleast_1d", "atleast_2d", "atleast_3d", "meshgrid", "block_diag",
))  # fmt: skip
_ZEROS = frozenset(("zeros", "zeros_like", "new_zeros", "zero"))
# Modules whose function has another name than theirs.
_MODULES = {
    "Linear": "linear", "Bilinear": "bilinear", "Embedding": "embedding", "EmbeddingBag": "embedding",
    "LayerNorm": "layer_norm", "GroupNorm": "group_norm", "RMSNorm": "rms_norm", "Flatten": "flatten",
    "Unflatten": "unflatten", "Identity": "identity", "PixelShuffle": "pixel_shuffle", "Upsample": "upsample",
    "PixelUnshuffle": "pixel_unshuffle", "Fold": "fold", "Unfold": "unfold", "ChannelShuffle": "roll",
}  # fmt: skip


class Flag(IntEnum):
    """Whether a value is other than zero, or a gradient arrives; all of several is their least, any their most."""

    NO = 0
    MAYBE = 1
    YES = 2


class Factor(NamedTuple):
    """An operation that a product is made of, by its number, and whether a gradient can pass to it."""

    at: int
    passes: bool


@dataclass(slots=True)
class Operation:
    """One operation: the sum of `terms`, each a product of factors; `unary`: then a function of that.

    `silent` products pass gradients, but whether they are zero does not decide whether the value is, as the scores of
    attention. `curve`: whether the function is not zero at zero, and whether its slope is not. `opaque`: nothing is
    known of it but what it is given. `node`: its number in the graph; `parameter`: the name of the one that it is;
    `value`: whether it is not zero, where no term says so.
    """

    name: str = ""
    terms: list[tuple[Factor, ...]] = field(default_factory=list)
    silent: list[tuple[Factor, ...]] = field(default_factory=list)
    curve: tuple[bool, bool] | None = None
    opaque: bool = False
    node: int = -1
    parameter: str = ""
    value: Flag = Flag.YES

    @property
    def products(self) -> list[tuple[Factor, ...]]:
        """All products that gradients pass through."""
        return self.terms + self.silent


class _Way(NamedTuple):
    """Where an operation leads through others without a gradient: the last of them, itself included.

    Of several ways, the one that ends nearest to the output. `lit`: the first operation with a gradient, and what feeds
    it. `cut`: the last operation on the way that no gradient passes back from.
    """

    last: int
    lit: tuple[int, int] | None = None
    cut: int | None = None


class ParameterFlow(NamedTuple):
    """What is known of one parameter's gradient; see the fields of `Parameter` of these names."""

    gradient_outlook: Outlook
    gradient_after: int | None
    gradient_lost_at: str = ""
    gradient_lost_by: GradientLoss = ""
    gradient_zero_factor: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured: of sites by node, of parameters by name.

    `values`: whether each is not zero; `gradients`: whether each received one other than zeros. `frozen`: parameters
    that require no gradient. `sites`: the name of each site's node.
    """

    values: Mapping[int, bool]
    gradients: Mapping[int, bool]
    parameter_values: Mapping[str, bool]
    parameter_gradients: Mapping[str, bool]
    frozen: frozenset[str]
    sites: Mapping[int, str]


def gradient_flow(
    nodes: Sequence[Node], seen: Seen, canonical: Callable[[str], str | None]
) -> dict[str, ParameterFlow]:
    """Return what is known of each parameter's gradient, from the nodes of a traced pass, earlier ones first.

    `canonical`: the name under which a parameter is recorded, None for one that is not. Empty where no gradient was
    seen at all: then no backward pass ran.
    """
    if not any(seen.gradients.values()) and not any(seen.parameter_gradients.values()):
        return {}
    names = seen.parameter_gradients
    waiting = [name for name, there in names.items() if not there and name not in seen.frozen]
    if not waiting:
        return {name: _frozen() if name in seen.frozen else ParameterFlow("now", 0) for name in names}
    flow = _Flow(operations_of(nodes, canonical), seen)
    after = flow.forecast(waiting)
    found = {}
    for name, there in names.items():
        if name in seen.frozen:
            found[name] = _frozen()
        elif there:
            found[name] = ParameterFlow("now", 0)
        else:
            outlook, steps = after[name]
            at, lost_by, zero = flow.loss(name)
            found[name] = ParameterFlow(outlook, steps, at, lost_by, zero)
    return found


def _frozen() -> ParameterFlow:
    return ParameterFlow("", None, gradient_lost_by="frozen")


# From the graph to sums of products


def operations_of(nodes: Sequence[Node], canonical: Callable[[str], str | None]) -> list[Operation]:
    """Return the operations of a graph, each behind those that it is computed from."""
    return _Reader(canonical).read(nodes)


class _Reader:
    def __init__(self, canonical: Callable[[str], str | None]) -> None:
        self._canonical = canonical
        self._operations: list[Operation] = []
        self._leaves: dict[str, int] = {}

    def read(self, nodes: Sequence[Node]) -> list[Operation]:
        at: list[int] = []
        for number, node in enumerate(nodes):
            given = [Factor(at[parent], passes) for parent, passes in zip(node.parents, node.passes, strict=True)]
            smooth = [factor for factor, parent in zip(given, node.parents, strict=True) if nodes[parent].smooth]
            operation = self._operation(node, given, smooth, at)
            operation.node = number
            at.append(self._add(operation))
        return self._operations

    def _add(self, operation: Operation) -> int:
        self._operations.append(operation)
        return len(self._operations) - 1

    def _leaf(self, name: str) -> Factor:
        if name not in self._leaves:
            self._leaves[name] = self._add(Operation(parameter=name))
        return Factor(self._leaves[name], True)

    def _operation(self, node: Node, given: list[Factor], smooth: list[Factor], at: list[int]) -> Operation:
        if node.source == "parameter":
            recorded = [name for one in node.parameters if (name := self._canonical(one)) is not None]
            return Operation("", [(self._leaf(recorded[0]),)]) if recorded else Operation(value=Flag.MAYBE)
        if node.source:
            return Operation(value=Flag.MAYBE if node.source == "unknown" else Flag.YES)
        if node.inner is not None:
            return Operation(node.operation, [(Factor(at[node.inner], True),)])
        name = node.operation.rstrip("_")
        recorded = list(dict.fromkeys(one for p in node.parameters if (one := self._canonical(p)) is not None))
        own = {one.rpartition(".")[2]: self._leaf(one) for one in recorded}
        if node.function is not None and len(smooth) == 1 and not own:
            return Operation(name, [(smooth[0],)], curve=at_zero(node.function))
        return self._by_name(_MODULES.get(name, name), given, smooth, own)

    def _by_name(self, name: str, given: list[Factor], smooth: list[Factor], own: dict[str, Factor]) -> Operation:
        weight, bias = own.get("weight"), own.get("bias")
        first = smooth[:1] or given[:1]
        if name in _ZEROS:
            return Operation(name, value=Flag.NO)
        if "softmax" in name.lower():
            return Operation(name, _single(first), curve=(True, True))
        if name.startswith(_LAYERS) or name.startswith(("Conv", "LazyConv", "LazyLinear")):
            return _layer(name, [*smooth, *([weight] if weight else [])], bias)
        if name == "bilinear":
            factors = [*smooth[:3], *([weight] if weight else [])][:3]
            return Operation(name, [tuple(factors), *_single([bias] if bias else smooth[3:])])
        if name in _NORMS or name.endswith("Norm") or "BatchNorm" in name or "InstanceNorm" in name:
            inner = smooth[1:] if not own else []
            if name == "batch_norm" and len(given) in (3, 5):
                # Running mean and variance come before, where they are kept.
                inner = given[-2:]
            scale = [weight] if weight else inner[:1]
            return Operation(name, [(*first, *scale), *_single([bias] if bias else inner[1:2])])
        if name == "embedding":
            return Operation(name, _single([weight] if weight else smooth[:1]))
        if own:
            return _opaque(name, [*smooth, *own.values()])
        if name == _HEADS:
            return self._heads(smooth)
        if name == _ATTENTION and len(smooth) >= 3:
            return Operation(name, _single(smooth[2:3]), silent=[tuple(smooth[:3])])
        if name in _PRODUCTS:
            return Operation(name, [tuple(smooth)] if smooth else [])
        if name in _ADDED_PRODUCTS:
            return Operation(name, [*_single(smooth[:1]), tuple(smooth[1:3])])
        if name in _QUOTIENTS and len(smooth) == 2:
            return Operation(name, _single(smooth[:1]), silent=[(smooth[1], smooth[0])])
        if name in ("max", "min") and len(smooth) > 1:
            return Operation(name, _single(smooth))
        if name in _SUMS and len(smooth) + (name not in ("add", "sub", "subtract", "rsub")) > 1:
            return Operation(name, _single(smooth))
        if name in _MOVES or "Pool" in name or "Pad" in name or "Dropout" in name or name in _QUOTIENTS:
            return Operation(name, _single(smooth if name == "" else first), value=Flag.YES if smooth else Flag.MAYBE)
        return _opaque(name, smooth)

    def _heads(self, smooth: list[Factor]) -> Operation:
        """Return multi-head attention: out(softmax(q k) v), each projected by its own part of one weight."""
        own = {}
        for factor in smooth:
            terms = self._operations[factor.at].terms
            leaf = self._operations[terms[0][0].at].parameter if len(terms) == 1 and terms[0] else ""
            if leaf:
                own[leaf.rpartition(".")[2] if "out_proj" not in leaf else leaf.rpartition("out_proj.")[2]] = factor
        if "weight" not in own or "in_proj_weight" not in own or len(smooth) < 3:
            return _opaque(_HEADS, smooth)
        into = [own["in_proj_weight"]]
        extra = _single([own["in_proj_bias"]] if "in_proj_bias" in own else [])
        query, key, value = (
            Factor(self._add(Operation(_HEADS, [(smooth[place], *into), *extra])), True) for place in range(3)
        )
        bias = _single([own["bias"]] if "bias" in own else [])
        out = own["weight"]
        return Operation(_HEADS, [(value, out), *bias], silent=[(query, key, value, out)])


def _single(factors: Iterable[Factor]) -> list[tuple[Factor, ...]]:
    return [(factor,) for factor in factors]


def _layer(name: str, factors: list[Factor], bias: Factor | None) -> Operation:
    return Operation(name, [tuple(factors[:2]), *_single([bias] if bias else factors[2:3])])


def _opaque(name: str, given: list[Factor]) -> Operation:
    """Return an operation of which nothing is known but what it is given."""
    return Operation(name, _single(given), opaque=True)


# Flags through the operations


class _Flow:
    def __init__(self, operations: list[Operation], seen: Seen) -> None:
        self._operations = operations
        self._seen = seen
        self._leaves = {one.parameter: at for at, one in enumerate(operations) if one.parameter}
        # Of each operation, what it feeds, and whether a gradient can pass back from there.
        self._feeds: list[dict[int, bool]] = [{} for _ in operations]
        for at, one in enumerate(operations):
            for factor in (factor for product in one.products for factor in product):
                self._feeds[factor.at][at] = factor.passes or self._feeds[factor.at].get(at, False)
        self._parameters = {name: Flag.YES if there else Flag.NO for name, there in seen.parameter_values.items()}
        # Values and gradients that the rules do not explain, from the pass that was measured.
        self._odd_values: set[int] = set()
        self._closed: set[int] = set()
        self._starts: dict[int, Flag] = {}
        self._learned: set[int] = set()
        self._found_ways: list[_Way] = []
        self.values = self._values(first=True)
        self.gradients = self._gradients(first=True)

    def _values(self, *, first: bool = False) -> list[Flag]:
        """Return whether each value is other than zero."""
        values: list[Flag] = []
        for at, one in enumerate(self._operations):
            value = self._value(one, values)
            measured = self._seen.values.get(one.node)
            if one.parameter or measured is None:
                values.append(value)
                continue
            if first and not measured and value is not Flag.NO:
                self._odd_values.add(at)
            if measured:
                value = Flag.YES
            elif at in self._odd_values or first:
                value = Flag.MAYBE if at in self._learned else Flag.NO
            values.append(value)
        return values

    def _value(self, one: Operation, values: Sequence[Flag]) -> Flag:
        if one.parameter:
            return self._parameters.get(one.parameter, Flag.MAYBE)
        if not one.terms:
            return one.value
        value = max(min((values[factor.at] for factor in term), default=Flag.YES) for term in one.terms)
        if one.opaque:
            return max(value, Flag.MAYBE)
        return Flag.YES if one.curve is not None and one.curve[0] else value

    def _gradients(self, *, first: bool = False) -> list[Flag]:
        """Return whether a gradient arrives at each operation."""
        gradients = [Flag.NO] * len(self._operations)
        for at in reversed(range(len(self._operations))):
            one = self._operations[at]
            arriving = gradients[at]
            measured = self._measured(at)
            if first and measured is not None:
                if measured and arriving is Flag.NO:
                    self._starts[at] = Flag.YES
                elif not measured and arriving is not Flag.NO:
                    self._closed.add(at)
            arriving = max(arriving, self._starts.get(at, Flag.NO))
            if at in self._closed:
                arriving = min(arriving, Flag.MAYBE if self._above_learned(at) else Flag.NO)
            elif first and measured:
                arriving = Flag.YES
            gradients[at] = arriving
            if arriving is Flag.NO:
                continue
            for product in one.products:
                for place, factor in enumerate(product):
                    passing = self._passing(one, product, place, arriving)
                    gradients[factor.at] = max(gradients[factor.at], passing)
        return gradients

    def _measured(self, at: int) -> bool | None:
        one = self._operations[at]
        if one.parameter:
            return None if one.parameter in self._seen.frozen else self._seen.parameter_gradients.get(one.parameter)
        return self._seen.gradients.get(one.node)

    def _passing(self, one: Operation, product: tuple[Factor, ...], place: int, arriving: Flag) -> Flag:
        """Return whether a gradient that arrives at an operation goes on to one factor of a product."""
        if not product[place].passes:
            return Flag.NO
        flags = [arriving, *(self.values[factor.at] for at, factor in enumerate(product) if at != place)]
        value = self.values[product[place].at]
        if one.curve is not None and not one.curve[1]:
            # Its slope is zero at zero; elsewhere the measured pass tells.
            flags.append(value)
        if one.opaque:
            flags.append(max(value, Flag.MAYBE))
        return min(flags)

    def _above_learned(self, at: int) -> bool:
        """Return whether something that a value feeds into, or is multiplied with, has learned."""
        return any(feed in self._learned for feed in self._feeds[at])

    # Steps

    def forecast(self, waiting: Iterable[str]) -> dict[str, tuple[Outlook, int | None]]:
        """Return whether and after how many steps each of the parameters gets a gradient, which now get none."""
        found: dict[str, tuple[Outlook, int | None]] = {}
        unsettled = list(waiting)
        start = self.values, self.gradients
        for step in range(1, _STEPS + 1):
            before = self.values, self.gradients, len(self._learned)
            self._step()
            self.values = self._values()
            self.gradients = self._gradients()
            for name in unsettled:
                flag = self._arriving(name)
                if flag is not Flag.NO:
                    found[name] = ("later", step) if flag is Flag.YES else ("unpredictable", None)
            unsettled = [name for name in unsettled if name not in found]
            if not unsettled or before == (self.values, self.gradients, len(self._learned)):
                break
        self.values, self.gradients = start
        # What took no part in the pass may take part in another.
        return found | {
            name: ("never", None) if name in self._leaves else ("unpredictable", None) for name in unsettled
        }

    def _arriving(self, name: str) -> Flag:
        leaf = self._leaves.get(name)
        return Flag.NO if leaf is None else self.gradients[leaf]

    def _step(self) -> None:
        """Let every trainable parameter learn that a gradient reaches."""
        new: list[int] = []
        for name, leaf in self._leaves.items():
            if name not in self._seen.frozen and self.gradients[leaf] is not Flag.NO and leaf not in self._learned:
                new.append(leaf)
            if name not in self._seen.frozen:
                self._parameters[name] = max(self._parameters.get(name, Flag.MAYBE), self.gradients[leaf])
        while new:
            at = new.pop()
            if at not in self._learned:
                self._learned.add(at)
                new += self._feeds[at]

    # Where it is lost

    def loss(self, name: str) -> tuple[str, GradientLoss, str]:
        """Return the site where a parameter's gradient is lost, why, and the factor that is zero."""
        leaf = self._leaves.get(name)
        if leaf is None:
            return name.rpartition(".")[0], "not run", ""
        way = self._ways()[leaf]
        if way.lit is not None:
            return self._why(*way.lit)
        if way.cut is not None:
            return self._site(way.cut), "detached", ""
        return self._site(way.last), "unused", ""

    def _ways(self) -> list[_Way]:
        """Return for each operation how what it feeds goes on, from the last operation to the first."""
        if not self._found_ways:
            ways = [_Way(at) for at in range(len(self._operations))]
            for at in reversed(range(len(ways))):
                dark = [ways[feed] for feed in self._feeds[at] if self.gradients[feed] is not Flag.YES]
                lit = [(feed, at) for feed in self._feeds[at] if self.gradients[feed] is Flag.YES]
                cut = [feed for feed, passes in self._feeds[at].items() if not passes]
                ways[at] = _Way(
                    last=max((way.last for way in dark), default=at),
                    lit=max(lit + [way.lit for way in dark if way.lit is not None], default=None),
                    cut=max(cut + [way.cut for way in dark if way.cut is not None], default=None),
                )
            self._found_ways = ways
        return self._found_ways

    def _why(self, feed: int, below: int) -> tuple[str, GradientLoss, str]:
        one, place = self._operations[feed], self._site(feed)
        if not self._feeds[below][feed]:
            return place, "detached", ""
        for product in one.products:
            inside = [factor.at for factor in product]
            if below not in inside:
                continue
            inside.remove(below)
            zeros = [at for at in inside if self.values[at] is Flag.NO]
            if zeros:
                return place, "zero factor", self._named(zeros[0])
        return place, "zero slope", ""

    def _named(self, at: int) -> str:
        """Return the parameter or the site that a value is, the nearest that it was made of where it is neither."""
        one = self._operations[at]
        if one.parameter:
            return one.parameter
        if one.node in self._seen.sites:
            return self._seen.sites[one.node]
        zeros = [f.at for product in one.terms for f in product if self.values[f.at] is Flag.NO]
        return self._named(zeros[0]) if zeros else one.name

    def _site(self, at: int) -> str:
        """Return the name of the nearest site behind an operation, of the nearest before it where none is behind."""
        for reach in (lambda i: self._feeds[i], self._below):
            visited, waiting = {at}, [at]
            for current in waiting:
                if (name := self._seen.sites.get(self._operations[current].node)) is not None:
                    return name
                new = [i for i in reach(current) if i not in visited]
                visited.update(new)
                waiting += new
        return ""

    def _below(self, at: int) -> list[int]:
        return [factor.at for product in self._operations[at].products for factor in product]
