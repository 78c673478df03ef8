"""`NetworkProfile`: what one run of one network showed at each of its sites, in execution order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from propscope.errors import unknown_site
from propscope.records.display import as_html, as_page, as_text
from propscope.records.graph import UNKNOWN as UNKNOWN
from propscope.records.graph import Node, SiteGraph
from propscope.records.numerals import counted
from propscope.records.summary import TensorSummary
from propscope.records.time_course import TimeCourse

if TYPE_CHECKING:
    import pandas
    import xarray

    from propscope.records.profile_set import ProfileSet
    from propscope.records.rows import TableName

Role = Literal["pre-activation", "activation", "norm", "attention", "embedding", "residual", "input", "output", "other"]
Direction = Literal["forward", "backward"]
# What is to be expected of a parameter's gradient, and how it was lost; "" where that is not known.
Outlook = Literal["", "now", "later", "never", "unpredictable"]
GradientLoss = Literal["", "frozen", "not run", "unused", "detached", "zero factor", "zero slope"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
Label = str | int | float
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Expected:
    """What infinite-width theory expects at a site, and how far networks of finite width scatter about it.

    `forward_mean`, `forward_std`, `forward_rms` are of the values, `backward_rms` of the gradient, `mean_cosine` is
    between samples. Over seeds, ln rms has the standard deviation `forward_log_std` (`backward_log_std`), and its mean
    lies `forward_log_drift` (`backward_log_drift`) above the logarithm of the expected rms, so that 95% of networks lie
    within ln rms + drift +- 1.96 log_std. `forward_mean_std` is the standard deviation over seeds of the mean, and
    `forward_std_log_std` that of ln std. NaN where theory says nothing.
    """

    forward_mean: float = math.nan
    forward_std: float = math.nan
    forward_rms: float = math.nan
    forward_log_std: float = math.nan
    backward_rms: float = math.nan
    backward_log_std: float = math.nan
    mean_cosine: float = math.nan
    forward_log_drift: float = math.nan
    backward_log_drift: float = math.nan
    forward_mean_std: float = math.nan
    forward_std_log_std: float = math.nan


@dataclass(frozen=True, slots=True)
class Parent:
    """A site that the value of another one was computed from: an edge of the graph.

    `name`: the site's name, `UNKNOWN` where it could not be seen. `operations`: the names of those that lead from it
    to the site, in order; the last one made the site's value. `gradient`: whether a gradient passes along the edge.
    """

    name: str
    operations: tuple[str, ...] = ()
    gradient: bool = True


@dataclass(frozen=True, slots=True)
class Site:
    """One tensor that a network produces at one place: a module's output or a functional activation.

    `name`: the dotted name of the module, with `#1`, `#2` for its later calls. `kind`: name of the class or function.
    `layer`: number of the layer, from 1; None outside a layered network. `shape`: that of the first batch.
    `activation`: name of the nonlinearity that a pre-activation enters, else "". `forward` summarizes the values, and
    `backward` the gradient of the loss with respect to them; None where it was not seen.

    `parents`: the nearest sites that the value was computed from, in execution order; () for a value that was computed
    from no site, None where it is not known, as in files before schema 3. `parameters`: the names of the parameters
    that took part between the parents and the site, frozen ones too, all names of a shared one.

    Statistics of units, None where they do not apply: `units` is their number, `dead_units` are flat on all `samples`,
    `symmetric_units` equal another unit on every sample, `flat_fraction` is the share of pre-activations with
    abs(phi') < eps * max abs(phi'). Geometry of the samples' vectors: `mean_cosine` over pairs of samples, and
    `effective_rank` = exp(entropy of the normalized squared singular values) of the matrix of sampled rows.

    Attention has `attention_entropy`, the mean entropy of its rows in nats, and `largest_logit` before the softmax;
    `logit_spread` is the standard deviation of the logits about the mean of their row, masked ones left out.
    `softmax_axis` is the axis along which a softmax sums to 1, and `masked_rows` the share of its rows that are
    masked throughout. A residual sum has `branch_share`, the mean square of the branch over that of stream and
    branch together. `features` is the length of the axis of features (channels): 1 for a gate or a scalar output. What
    runs on some of the samples or tokens only, as an expert of a mixture does, has `token_share`, their share. A
    model's input, of role "input",
    has `feature_spread`: the largest rms of a feature over the median of those that are not zero.

    `expected` is what theory predicts. `jacobian` summarizes the singular values of d site / d input over the samples
    it was computed for; `jacobian_condition` is the largest over the smallest, a geometric mean over samples (Inf where
    one is rank-deficient); `jacobian_square_variance` is the variance of their squares over the squared mean of these.
    """

    name: str
    kind: str
    role: Role
    shape: tuple[int, ...]
    dtype: str = "float32"
    layer: int | None = None
    activation: str = ""
    forward: TensorSummary | None = None
    backward: TensorSummary | None = None
    samples: int = 0
    units: int | None = None
    dead_units: int | None = None
    symmetric_units: int | None = None
    flat_fraction: float | None = None
    mean_cosine: float | None = None
    effective_rank: float | None = None
    attention_entropy: float | None = None
    largest_logit: float | None = None
    logit_spread: float | None = None
    softmax_axis: int | None = None
    masked_rows: float | None = None
    branch_share: float | None = None
    features: int | None = None
    feature_spread: float | None = None
    token_share: float | None = None
    expected: Expected | None = None
    jacobian: TensorSummary | None = None
    jacobian_condition: float | None = None
    jacobian_square_variance: float | None = None
    parents: tuple[Parent, ...] | None = None
    parameters: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layer = "" if self.layer is None else f", layer {self.layer}"
        sizes = "".join(
            f", {direction} rms {summary.rms:.4g}"
            for direction in DIRECTIONS
            if (summary := getattr(self, direction)) is not None
        )
        return f"Site({self.name!r}, {self.kind}, {self.role}, shape {self.shape}{layer}{sizes})"

    @property
    def dead_share(self) -> float | None:
        """The share of the units that are flat on all `samples`; None where it is not known."""
        return None if self.dead_units is None or not self.units else self.dead_units / self.units


@dataclass(frozen=True, slots=True)
class CoverageNote:
    """Something that a profile lacks, or shows differently than asked: its `name`, `what` it is, the `reason`."""

    name: str
    what: Literal["module", "output", "operation", "parameter", "model", "seed", "theory"]
    reason: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its `value` at the end of the recording, and its `gradient` over every backward pass.

    `gradient` is None where the parameter got none. `symmetric_units`: the number of rows of a weight (entries of its
    output axis) that equal another row; None below 2-D. `expected_gradient_norm`: the L2 norm that theory predicts,
    None where it says nothing; `expected_gradient_log_std`: the standard deviation over seeds of its logarithm.

    `gradient_outlook`: whether gradient descent moves it, by what the graph of the pass shows without any training. It
    gets a gradient "now", or "later", after `gradient_after` steps; "never" is said only where exact zeros close every
    way to it for good; "unpredictable" where something before a function that is flat on every sample learns. "" for a
    frozen parameter, and where no gradient was seen at all. Where it gets none now, `gradient_lost_at` is the site, or
    the module that did not run, where the gradient is lost on its way from the output, and `gradient_lost_by` says
    how: "zero factor" for a product whose other factor, `gradient_zero_factor`, is zero; "zero slope" for a function
    that passes nothing on; "detached" for `detach`, `no_grad` or an operation without a derivative; "unused" where
    nothing of it reaches the loss; "not run"; "frozen".

    Of the optimizer's step that a sample of `propscope.monitor` saw, L2 norms, None where none was seen, Inf where an
    element is not finite: `step_gradient_norm` of the gradient, accumulated and reduced, without the loss scale, before
    clipping; `update_norm` of what the step changed; `first_moment_norm` and `second_moment_norm` of Adam's means of
    the gradient and of its square. `update_ratio` is `update_norm` over the norm of the value before the step; None
    where that was zero.
    """

    name: str
    shape: tuple[int, ...]
    value: TensorSummary
    gradient: TensorSummary | None = None
    dtype: str = "float32"
    symmetric_units: int | None = None
    expected_gradient_norm: float | None = None
    expected_gradient_log_std: float | None = None
    gradient_outlook: Outlook = ""
    gradient_after: int | None = None
    gradient_lost_at: str = ""
    gradient_lost_by: GradientLoss = ""
    gradient_zero_factor: str = ""
    step_gradient_norm: float | None = None
    update_norm: float | None = None
    update_ratio: float | None = None
    first_moment_norm: float | None = None
    second_moment_norm: float | None = None

    def __repr__(self) -> str:
        gradient = "" if self.gradient is None else f", gradient rms {self.gradient.rms:.4g}"
        return f"Parameter({self.name!r}, shape {self.shape}, value rms {self.value.rms:.4g}{gradient})"

    @property
    def value_norm(self) -> float:
        """The L2 norm of the finite elements of the value."""
        # Counts that were made up may contradict each other, which `save` says.
        return self.value.rms * math.sqrt(max(self.value.finite_count, 0))

    @property
    def gradient_norm(self) -> float | None:
        """The L2 norm of the gradient, as a root mean square over the backward passes; None where there was none."""
        return None if self.gradient is None else self.gradient.rms * math.sqrt(math.prod(self.shape))


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a profile comes from, in enough detail to run it again.

    `spec`: everything that was asked for, as JSON. `created`: UTC, ISO 8601. `wall_seconds`: time that the recorded run
    took. `samples`: rows of input seen; `batches`: forward passes seen. `histogram_limit`: the most elements of one
    tensor that its histogram counts, taken at an even stride; 0 for all. `flat_threshold`: eps of the flat fraction.
    """

    spec: str = "{}"
    seed: int | None = None
    propscope_version: str = ""
    torch_version: str = ""
    python_version: str = ""
    commit: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    created: str = ""
    wall_seconds: float = float("nan")
    samples: int = 0
    batches: int = 0
    histogram_limit: int = 0
    flat_threshold: float = float("nan")


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """The sites of one network in execution order, its parameters, labels and provenance.

    `labels` hold one value for each axis along which profiles differ: initializer, activation, depth, width and seed in
    a grid of MLPs. `coverage` names what was not seen, and why. `time_courses`: what recurrent modules show over their
    steps in the last pass. `loss_fault`: whether the "value" or a "derivative" of the loss was not finite although what
    it was computed from was, and `loss_operation`: the operation of the loss that made it so; "" where all was finite
    or not seen. `batch_digest`, `weights_digest`: 16 hexadecimal digits of the first batch, and of the parameters and
    buffers that it met, which are equal where these are, on every device; "" where they were not recorded.
    """

    sites: tuple[Site, ...]
    parameters: tuple[Parameter, ...] = ()
    labels: Mapping[str, Label] = field(default_factory=dict)
    provenance: Provenance = Provenance()
    coverage: tuple[CoverageNote, ...] = ()
    time_courses: tuple[TimeCourse, ...] = ()
    loss_fault: Literal["", "value", "derivative"] = ""
    loss_operation: str = ""
    batch_digest: str = ""
    weights_digest: str = ""
    _graph: SiteGraph | None = field(default=None, init=False, repr=False, compare=False)
    _signal_sites: tuple[Site, ...] | None = field(default=None, init=False, repr=False, compare=False)
    _signal_inputs: tuple[int | None, ...] | None = field(default=None, init=False, repr=False, compare=False)
    _by_name: Mapping[str, Parameter] | None = field(default=None, init=False, repr=False, compare=False)
    _sites_by_name: Mapping[str, Site] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def graph(self) -> SiteGraph:
        """What feeds what among the sites."""
        if self._graph is None:
            object.__setattr__(self, "_graph", SiteGraph(_nodes(self)))
        return self._graph  # type: ignore[return-value]

    def __getitem__(self, name: str) -> Site:
        """Return the site of that name; raises `UnknownSiteError`, which is a KeyError too, with the nearest names."""
        if self._sites_by_name is None:
            # Of sites of one name, the first.
            object.__setattr__(self, "_sites_by_name", {site.name: site for site in reversed(self.sites)})
        if (site := (self._sites_by_name or {}).get(name)) is None:
            raise unknown_site(name, [site.name for site in self.sites])
        return site

    def parameters_of(self, site: Site) -> list[Parameter]:
        """Return the parameters that took part in a site, in its order; a shared one once, none of an older file."""
        if self._by_name is None:
            object.__setattr__(self, "_by_name", {parameter.name: parameter for parameter in self.parameters})
        known: Mapping[str, Parameter] = self._by_name or {}
        return [known[name] for name in site.parameters if name in known]

    def with_role(self, role: Role) -> tuple[Site, ...]:
        """Return the sites of a role, in execution order."""
        return tuple(site for site in self.sites if site.role == role)

    @property
    def inputs(self) -> tuple[Site, ...]:
        """The sites that are the model's inputs, which come first among the sites."""
        return self.with_role("input")

    @property
    def signal_sites(self) -> tuple[Site, ...]:
        """The sites that gains are measured between: the pre-activations, or all sites where there are fewer than two.

        In a layered network, whose pre-activations have a layer number, one pre-activation is enough. The model's
        inputs are none of them.
        """
        if self._signal_sites is None:
            chosen = self.with_role("pre-activation")
            layered = any(site.layer is not None for site in chosen)
            # Rules and tables ask a dozen times.
            object.__setattr__(
                self, "_signal_sites", chosen if layered or len(chosen) > 1 else self.without_inputs.sites
            )
        return self._signal_sites  # type: ignore[return-value]

    @property
    def without_inputs(self) -> NetworkProfile:
        """The same profile without the sites of the model's inputs: what layers, findings and tables of them are of."""
        others = tuple(site for site in self.sites if site.role != "input")
        return self if len(others) == len(self.sites) else replace(self, sites=others)

    def signal_rms(self, direction: Direction) -> Floats:
        """Return the rms at each signal site, shape (len(signal_sites),).

        NaN where the direction was not seen, Inf where any element was not finite, so that an overflow counts as large.
        """
        return np.array([signal_of(getattr(site, direction)) for site in self.signal_sites], dtype=np.float64)

    @property
    def signal_places(self) -> tuple[int, ...]:
        """The positions of `signal_sites` in `sites`."""
        chosen = set(map(id, self.signal_sites))
        return tuple(index for index, site in enumerate(self.sites) if id(site) in chosen)

    @property
    def signal_inputs(self) -> tuple[int | None, ...]:
        """The positions in `sites` of the signal sites that feed the second signal site, the third and so on.

        Of several that feed it, the last one; None where none does.
        """
        if self._signal_inputs is None:
            places = self.signal_places
            before = self.graph.latest_before(frozenset(places))
            object.__setattr__(self, "_signal_inputs", tuple(before[place] for place in places[1:]))
        return self._signal_inputs  # type: ignore[return-value]

    @property
    def forward_gains(self) -> Floats:
        """rms(z_l) / rms(z_k) for l = 2.., shape (len(signal_sites) - 1,), where z_k is the signal site that feeds z_l.

        In a layered network k = l - 1. Of several that feed it the last one counts; NaN where none does.
        """
        return self._between("forward", lambda here, before: (here, before))

    @property
    def backward_gains(self) -> Floats:
        """rms(dL/dz_k) / rms(dL/dz_l) for l = 2.., shape (len(signal_sites) - 1,), with k as in `forward_gains`."""
        return self._between("backward", lambda here, before: (before, here))

    def _between(self, direction: Direction, order: Callable[[Floats, Floats], tuple[Floats, Floats]]) -> Floats:
        rms = self.signal_rms(direction)
        at = dict(zip(self.signal_places, rms.tolist(), strict=True))
        before = [math.nan if place is None else at[place] for place in self.signal_inputs]
        return _ratio(*order(rms[1:], np.array(before, dtype=np.float64)))

    def factor(self, direction: Direction) -> float:
        """Return the gain over the whole depth: rms of the last signal site over the first, or the reverse backward.

        1 for a single layer, 0 when the signal vanished, Inf when it overflowed, NaN when it was not seen.
        """
        rms = self.signal_rms(direction)
        if rms.size == 0:
            return float("nan")
        start, end = (rms[0], rms[-1]) if direction == "forward" else (rms[-1], rms[0])
        if np.isinf(rms).any():
            return float("inf")
        if start > 0:
            return float(end / start)
        return 0.0 if start == end == 0 else float("nan")

    @property
    def nonfinite_count(self) -> int:
        """The number of NaN and Inf elements at all sites and parameters, of values and gradients together."""
        summaries = [s for site in self.sites for s in (site.forward, site.backward)]
        summaries += [s for parameter in self.parameters for s in (parameter.value, parameter.gradient)]
        return sum(s.nan_count + s.posinf_count + s.neginf_count for s in summaries if s is not None)

    def to_frame(self, table: TableName = "site") -> pandas.DataFrame:
        """Return a pandas frame of the `site`, `parameter` or `profile` table, one row for each, labels first.

        Columns are those of the file's table of that name. Raises `MissingDependencyError` without pandas.
        """
        from propscope.records.frames import to_frame

        return to_frame((self,), table)

    def to_xarray(self) -> xarray.Dataset:
        """Return the numbers measured at the signal sites, dimensions (one for each label, layer).

        Raises `MissingDependencyError` without xarray.
        """
        from propscope.records.frames import to_xarray

        return to_xarray((self,))

    def to_html(self, *, title: str = "", against: NetworkProfile | ProfileSet | None = None) -> str:
        """Return one self-contained HTML page of the profile, as `propscope report` writes it; `title` stands above it.

        `against`: another one, which a section compares it with, as `propscope.compare(against, profile)` does.

        The page holds what it draws as one JSON document, and loads nothing from the network.
        """
        return as_page(self, title, against)

    def __repr__(self) -> str:
        labels = "".join(f", {name} {value}" for name, value in self.labels.items())
        counts = f"{counted(len(self.sites), 'site')}, {counted(len(self.parameters), 'parameter')}"
        return f"NetworkProfile({counts}{labels})"

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


def share_graph(profiles: Sequence[NetworkProfile]) -> None:
    """Let profiles of one network, such as its seeds, have one graph, so that what is found of it is found once.

    Those whose sites or parents differ from the first one's keep their own.
    """
    nodes = _nodes(profiles[0]) if profiles else ()
    for profile in profiles[1:]:
        if _nodes(profile) == nodes:
            object.__setattr__(profile, "_graph", profiles[0].graph)


def _nodes(profile: NetworkProfile) -> tuple[Node, ...]:
    return tuple(
        Node(site.name, site.parents, site.role == "input", site.branch_share is not None) for site in profile.sites
    )


def signal_of(summary: TensorSummary | None) -> float:
    """Return a summary's rms: NaN where nothing was seen, Inf where any element was not finite."""
    if summary is None or not summary.count:
        return float("nan")
    return float("inf") if summary.nonfinite_count else summary.rms


def _ratio(above: Floats, below: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below
