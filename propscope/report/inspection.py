"""What `inspect` prints: the verdict, the tree of sites, residual streams, parameters, coverage, precision."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from propscope.printable import shown
from propscope.records.finding import Diagnosis
from propscope.records.model_costs import ModelCosts, ModuleCosts
from propscope.records.network import NetworkProfile, Site
from propscope.records.numerals import counted, number, percent
from propscope.report.costs import compact, cost_sentences
from propscope.report.findings import mark_legend, note_lines, verdict_lines
from propscope.report.inputs import input_lines
from propscope.report.precision import precision_sentence
from propscope.report.sparkline import sparkline
from propscope.report.time_courses import time_sentences
from propscope.report.tree import Range, TreeLine, sorted_lines, tree_lines

_GAIN_NOTE = (
    "forward gain: rms of a pre-activation over the rms of the previous one; backward gain: rms of its gradient over "
    "that of the next one. flat: share of values where the nonlinearity is flat; dead: share of units that are flat on "
    "every sample. values: histogram on a linear axis, symmetric about 0 where both signs occur."
)
_NAMES_SHOWN = 4
_STOP = "the run stopped in here"


@dataclass(frozen=True, slots=True)
class _Style:
    """How much room a line takes: significant digits, blocks of a histogram, longest name and kind, and what else."""

    digits: int = 3
    blocks: int = 12
    name: int = 200
    kind: int = 40
    shape: bool = True
    costs: bool = False


_STYLES = (
    _Style(costs=True),
    _Style(digits=2, blocks=8, kind=18, costs=True),
    _Style(),
    _Style(digits=2, blocks=12, kind=18),
    _Style(digits=2, blocks=8, name=44, kind=12),
    _Style(digits=2, blocks=8, name=32, kind=10),
    _Style(digits=2, blocks=8, name=28, kind=0),
    _Style(digits=2, blocks=6, name=28, kind=0, shape=False),
    _Style(digits=2, blocks=0, name=24, kind=0, shape=False),
)
# What a site's name has more than the path of its module.
_CALL = re.compile(r"\.?[#\[].*", re.DOTALL)
_HEADS = {
    "forward_rms": ("forward", "rms"),
    "gain": ("", "gain"),
    "backward_rms": ("backward", "rms"),
    "backward_gain": ("", "gain"),
    "flat": ("", "flat"),
    "dead": ("", "dead"),
}


def inspection(
    profile: NetworkProfile,
    diagnosis: Diagnosis,
    costs: ModelCosts | None = None,
    *,
    title: str = "(model)",
    sort: str | None = None,
    top: int | None = None,
    depth: int | None = None,
    width: int | None = None,
) -> str:
    """Return the report on a profile as text of at most `width` characters (None: as wide as it needs to be).

    The inputs stand on top, then the verdict, with the cause and the remedy of the worst finding. A line that starts
    with `!` is a site that shows a fault; its last column names the fault. `costs`: those of the model that was
    profiled, in sentences, and line by line where there is room. `sort`: a list of sites, worst first by
    gain, backward, flat, dead or nonfinite, in place of the tree. `top`: the number of sites listed (without `sort`: by
    gain). `depth`: levels of modules. Raises `InputError` for values that are not valid.
    """
    profile, diagnosis = shown(profile), shown(diagnosis)
    inputs, profile = input_lines(profile), profile.without_inputs
    if sort is None and top is None:
        lines = tree_lines(profile, diagnosis, depth=depth, title=title)
    else:
        lines = sorted_lines(profile, diagnosis, sort="gain" if sort is None else sort, top=top)
    body = _table(lines, _costs_of(lines, costs), width)
    above, below = (*inputs, _headline(profile, diagnosis)), (_notes(lines), *note_lines(diagnosis))
    paragraphs = [*above, body, *below, *_facts(profile, costs)]
    return "\n".join(_wrapped(paragraph, width) if paragraph is not body else paragraph for paragraph in paragraphs)


def _headline(profile: NetworkProfile, diagnosis: Diagnosis) -> str:
    stop = next((note for note in profile.coverage if note.reason.startswith(_STOP)), None)
    if stop is not None:
        return f"stopped in {stop.name or '(model)'}{stop.reason.removeprefix(_STOP)}\n"
    return "\n".join([*verdict_lines(profile, diagnosis), ""])


def _costs_of(lines: Sequence[TreeLine], costs: ModelCosts | None) -> list[ModuleCosts | None]:
    """Return the costs of the module of each line, at its first line; None for operations and later calls."""
    left = {} if costs is None or costs.stopped else {module.name: module for module in costs.modules if module.calls}
    return [left.pop(_CALL.sub("", line.path), None) for line in lines]


def _table(lines: Sequence[TreeLine], costs: Sequence[ModuleCosts | None], width: int | None) -> str:
    for style in _STYLES:
        text = _drawn(lines, costs, style)
        if width is None or max(map(len, text)) <= width:
            break
    return "\n".join(line if width is None else line[:width] for line in text)


def _drawn(lines: Sequence[TreeLine], costs: Sequence[ModuleCosts | None], style: _Style) -> list[str]:
    marked = any(line.words for line in lines)
    left: dict[str, Callable[[TreeLine], str]] = {"site": lambda line: _short(line.label, style.name)}
    if style.kind:
        left["kind"] = lambda line: _short(line.kind, style.kind, tail=True)
    if style.shape:
        left["shape"] = lambda line: "" if line.shape is None else ",".join(map(str, line.shape))
    columns = [_column(("", head), map(read, lines), left=True) for head, read in left.items()]
    if style.costs and any(costs):
        columns.append(_column(("", "params"), ("" if each is None else compact(each.parameters) for each in costs)))
        done = ("" if each is None else compact(each.multiply_adds) for each in costs)
        columns.append(_column(("mult-", "adds"), done))
    for name, head in _HEADS.items():
        cells = [_figure(name, line.figures.get(name), style.digits) for line in lines]
        if any(cells):
            columns.append(_column(head, cells))
    if style.blocks:
        columns.append(
            _column(("", "values"), (sparkline(line.histogram, width=style.blocks) for line in lines), left=True)
        )
    if marked:
        columns.append(_column(("", ""), (_words(line.words, style) for line in lines), left=True))
    marks = ["", "", *("!" if line.words else "" for line in lines)]
    lead = "! " if marked else ""
    return [
        " ".join(row).rstrip()
        for row in zip(*([[f"{mark:{len(lead)}}" for mark in marks], *columns][not lead :]), strict=True)
    ]


def _column(head: tuple[str, str], cells: Iterable[str], *, left: bool = False) -> list[str]:
    column = [*head, *cells]
    wide = max(map(len, column))
    return [f"{cell:{'<' if left else '>'}{wide}}" for cell in column]


def _figure(name: str, figure: Range | None, digits: int) -> str:
    if figure is None:
        return ""
    spelled = percent if name in ("flat", "dead") else lambda value: number(value, digits)
    low, high = spelled(figure.low), spelled(figure.high)
    if low == high:
        return low
    return f"{low.removesuffix('%')}..{high}"


def _words(words: tuple[str, ...], style: _Style) -> str:
    shown = 3 if style.digits > 2 else 1
    return ", ".join(words[:shown]) + (f" +{len(words) - shown}" if len(words) > shown else "")


def _short(text: str, room: int, *, tail: bool = False) -> str:
    if len(text) <= room:
        return text
    if tail:
        return text[: room - 1] + "…"
    lead = len(text) - len(text.lstrip("│ ├└─"))
    tail_length = max(room - lead - 1, 4)
    return f"{text[:lead]}…{text[-tail_length:]}"


def _notes(lines: Sequence[TreeLine]) -> str:
    notes = ["", _GAIN_NOTE]
    legend = mark_legend(word for line in lines for word in line.words)
    if legend:
        notes += [f"! {'; '.join(legend)}."]
    return "\n".join([*notes, ""])


def _facts(profile: NetworkProfile, costs: ModelCosts | None) -> list[str]:
    sentences = (
        stream_sentence(profile),
        attention_sentence(profile),
        *time_sentences(profile),
        _parameters(profile, costs),
        *(() if costs is None else cost_sentences(costs)),
        *_coverage(profile),
        precision_sentence(profile),
    )
    return [line for line in sentences if line]


def _parameters(profile: NetworkProfile, costs: ModelCosts | None) -> str:
    if not profile.parameters:
        return "parameters: none"
    total = sum(math.prod(parameter.shape) for parameter in profile.parameters)
    without = [parameter.name for parameter in profile.parameters if parameter.gradient is None]
    said = f"parameters: {total:,} in {counted(len(profile.parameters), 'tensor')}"
    if costs is not None and costs.frozen_parameters and costs.parameters == total:
        said += f" ({costs.trainable_parameters:,} trainable, {costs.frozen_parameters:,} frozen)"
    if len(without) == len(profile.parameters):
        return f"{said}; none got a gradient"
    zero = sum(parameter.gradient is not None and parameter.gradient.rms == 0 for parameter in profile.parameters)
    parts = [f"{len(without)} without gradient"] * bool(without) + [f"{zero} with a gradient of zeros"] * bool(zero)
    return f"{said}; {', '.join(parts) or 'all have a gradient'}"


def _coverage(profile: NetworkProfile) -> list[str]:
    together: dict[tuple[str, str], list[str]] = {}
    for note in profile.coverage:
        together.setdefault((note.what, note.reason), []).append(note.name)
    return [
        f"coverage: {what}{'s' * (len(names) > 1)} {_listed(names)}: {reason}"
        for (what, reason), names in together.items()
    ]


def _listed(names: Sequence[str]) -> str:
    """Return names; names that differ only in numbers share one entry: "h.*.attn.dropout (12)"."""
    together = Counter(re.sub(r"\d+", "*", name) for name in names)
    shown = dict.fromkeys(
        f"{alike} ({together[alike]})" if together[alike] > 2 else name or "(model)"
        for name in names
        for alike in [re.sub(r"\d+", "*", name)]
    )
    rest = len(shown) - _NAMES_SHOWN
    return ", ".join(list(shown)[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _wrapped(text: str, width: int | None) -> str:
    room = min(width or 120, 120)
    return "\n".join(
        "\n".join(textwrap.wrap(line, room, subsequent_indent="  ", break_on_hyphens=False))
        for line in text.split("\n")
    )


def stream_sentence(profile: NetworkProfile) -> str:
    """Return the growth of the residual stream from the first sum to the last, and the range of the branches' shares.

    The growth is the ratio of the sums' rms. The share of a branch is its mean square over that of branch plus stream.
    "" with fewer than two residual sums.
    """
    sums = [site for site in profile.sites if site.branch_share is not None and site.forward is not None]
    if len(sums) < 2 or sums[0].forward is None or sums[-1].forward is None:
        return ""
    first, last = sums[0].forward.rms, sums[-1].forward.rms
    growth = f" (x{number(last / first)})" if first > 0 else ""
    least = min(sums, key=_share)
    most = max(sums, key=_share)
    return (
        f"residual stream: {len(sums)} sums, rms {number(first)} at {sums[0].name} to {number(last)} at "
        f"{sums[-1].name}{growth}; branches contribute {percent(least.branch_share)} ({least.name}) to "
        f"{percent(most.branch_share)} ({most.name}) of the mean square of a sum"
    )


def attention_sentence(profile: NetworkProfile) -> str:
    """Return the range of the attention's mean row entropy, in nats, and its largest logit; "" without attention."""
    attended = [site for site in profile.sites if site.attention_entropy is not None]
    if not attended:
        return ""
    low, high = min(attended, key=_entropy), max(attended, key=_entropy)
    top = max(attended, key=lambda site: site.largest_logit if site.largest_logit is not None else float("-inf"))
    return (
        f"attention: mean entropy {number(low.attention_entropy)} nat ({low.name}) to "
        f"{number(high.attention_entropy)} nat ({high.name}); largest logit {number(top.largest_logit)} ({top.name})"
    )


def _share(site: Site) -> float:
    return site.branch_share if site.branch_share is not None else 0.0


def _entropy(site: Site) -> float:
    return site.attention_entropy if site.attention_entropy is not None else 0.0
