"""Figures for papers, slides and screens: each function draws one kind of picture and returns its axes.

Without `ax` a function makes a figure whose size and text follow the size preset `style`: "screen" (as
`propscope plot` draws it), "paper" (one column of 3.4 inches, text of 8 points, no header and no caption) or "slide".
With `ax`, axes of a figure of yours, it draws into these and returns them; fonts are those that matplotlib is set to,
unless `style` says otherwise. Matplotlib's settings are unchanged afterwards.

What all functions take:

- `ax`: an axes, or as many as the picture has panels, as `plt.subplots` gives them.
- `quantity`: which panels, by name; several names make several panels, "all" those of all that was recorded.
- `title`: of the only panel, or of the figure with several; "" for none.
- `caption`: a text below the figure or axes; "" for none. None: how to read the picture, where the style has it.
- `palette`: the name of a colormap of matplotlib, or colours; for maps a colormap.
- `legend`: where the names of lines stand: "beside" the panel, "inside" it, "below" it, or "none".

They raise `InputError` for arguments that are not valid, and its `NothingToDrawError` where the data lacks what the
picture shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, is_color_like
from matplotlib.figure import Figure

from propscope import checks
from propscope.errors import InputError
from propscope.plots.curve_panels import Curves, draw_curves, draw_panel, prepare_curves
from propscope.plots.depth_series import evenly
from propscope.plots.gallery import NothingToDrawError, escaped
from propscope.plots.histogram_grid import (
    SUBJECTS,
    columns_within,
    draw_histogram_grid,
    draw_histograms,
    on_scale,
    prepare_histograms,
)
from propscope.plots.learning_panels import (
    MEASURES,
    draw_learning,
    draw_learning_panel,
    learning_styles,
    prepare_learning,
)
from propscope.plots.overview_map import COLOURS as FACTOR_COLOURS
from propscope.plots.overview_map import FactorMap, VerdictMap, draw_overview, prepare_overview
from propscope.plots.overview_map import draw_map as draw_factors
from propscope.plots.phase_map import COLOURS as DEPTH_COLOURS
from propscope.plots.phase_map import (
    draw_depths,
    draw_phase,
    draw_plane,
    measured_depths,
    prepare_phase,
    room_for_map,
)
from propscope.plots.quantities import QUANTITIES
from propscope.plots.run_view import RunView, draw_alarms, draw_step_axis
from propscope.plots.signal_change import prepare_signal_change
from propscope.plots.step_curves import STEP_QUANTITIES, draw_step_panel, draw_steps, prepare_steps
from propscope.plots.step_maps import (
    MAPS,
    draw_colours,
    draw_map,
    draw_step_maps,
    prepare_map,
    prepare_maps,
    row_labels,
)
from propscope.plots.style import (
    DPI,
    LEGENDS,
    SCREEN,
    Legend,
    Look,
    TextFigure,
    extent_of,
    line_styles,
    look_of,
    styled,
    unit,
    wrap,
    wrapped_title,
)
from propscope.records import MonitoredRun, NetworkProfile, ProfileSet, TrainingRun, TrainingSet
from propscope.records.phase import PhaseChart

T = TypeVar("T")
Profiles = NetworkProfile | ProfileSet
Drawn = Any
Style = Literal["screen", "paper", "slide"]
_AXES_HINT = "plt.subplots() makes a figure and axes"
# So many samples of a monitored run are drawn as lines or rows.
SAMPLES_AT_MOST = 6


@checks.known_arguments
def curves(
    profiles: Profiles | TrainingRun | TrainingSet,
    ax: Drawn = None,
    *,
    quantity: str | Sequence[str] = "forward_std",
    style: Style | None = None,
    title: str | None = None,
    caption: str | None = None,
    palette: str | Sequence[str] | None = None,
    legend: Legend | None = None,
) -> Drawn:
    """Draw curves along the depth, one line an initializer (or model, or sample), and return the axes.

    `quantity`: forward_std, forward_mean, backward_rms, gradient_norm, several of them, or "all". There is a panel for
    each quantity and activation, in this order; trainings have one before and one after in place of an activation. Of
    a monitored run, up to 6 samples are lines. Dashes under a line are the prediction of infinite-width theory.
    """
    named = {each.name: each for each in QUANTITIES}
    with _drawing(ax, style, legend, title, caption) as look:
        chosen = _chosen(quantity, named)
        prepared = _curves_of(profiles, chosen, named)
        panels = [panel for row in prepared.panels for panel in row if panel is not None]
        colours = _line_colours(palette, len(prepared.names))
        if ax is None:
            shown = _headed(prepared, look, title, caption, len(panels))
            titled = title != "" or len(panels) > 1
            drawn = draw_curves(shown, _figure(look), look=look, palette=colours, titled=titled).axes
        else:
            drawn = _given(ax, [_called(panel.quantity.name, panel.column) for panel in panels])
            lines = line_styles(prepared.names, colours)
            for axes, panel in zip(drawn, panels, strict=True):
                draw_panel(axes, panel, lines, legend=look.legend)
        return _finished(drawn, ax, title, caption)


def _curves_of(profiles: object, chosen: Sequence[str], named: Mapping[str, Any]) -> Curves:
    quantities = [named[name] for name in chosen]
    if isinstance(profiles, TrainingRun | TrainingSet):
        found = prepare_signal_change(_trainings(profiles), quantities=quantities)
        return _recorded(found, chosen, "profile the signal every few epochs (profile_every)")
    hint = "record the direction (forward, backward) or the parameters that it belongs to"
    return _recorded(prepare_curves(_profiles(profiles), quantities=quantities), chosen, hint)


@checks.known_arguments
def histograms(
    profiles: Profiles,
    ax: Drawn = None,
    *,
    quantity: str = "activations",
    scale: Literal["linear", "log"] | None = None,
    columns: int | None = None,
    style: Style | None = None,
    title: str | None = None,
    caption: str | None = None,
    palette: str | Sequence[str] | None = None,
) -> Drawn:
    """Draw a grid of histograms into one axes, one row an initializer and one column a layer, and return the axes.

    `quantity`: activations, gradients, weights or weight-gradients. `scale` of the axis that all cells share: "linear"
    or "log", None for the usual one. `columns`: how many layers at most, evenly spread, None for 12 or as many as there
    is room for; the text below the grid says how many of how many. A shape that would be a spike on a linear axis
    stands in a box on an axis of its own too. Numbers are left out where they have no room.
    """
    with _drawing(ax, style, None, title, caption) as look:
        (name,) = _chosen(quantity, SUBJECTS, one=True)
        subject = SUBJECTS[name]
        if scale is not None:
            checks.one_of("scale", scale, ("linear", "log"))
            subject = on_scale(subject, scale)
        drawn = [] if ax is None else _given(ax, [name])
        width = extent_of(drawn[0])[0] if drawn else look.units
        room = columns_within(width) if columns is None else checks.count("columns", columns)
        found = prepare_histograms(_profiles(profiles), subject=subject, columns_at_most=room)
        prepared = _recorded(found, [name], "record histograms (stats='all') and the direction that they are of")
        colour = _colour(palette)
        if ax is None:
            shown = _headed(prepared, look, title, caption, 1)
            drawn = draw_histograms(shown, _figure(look), look=look, colour=colour).axes
        else:
            draw_histogram_grid(drawn[0], prepared, colour=colour)
        return _finished(drawn, ax, title, caption)


@checks.known_arguments
def overview(
    profiles: Profiles,
    ax: Drawn = None,
    *,
    quantity: str | Sequence[str] = "all",
    style: Style | None = None,
    title: str | None = None,
    caption: str | None = None,
    palette: str | Colormap | None = None,
) -> Drawn:
    """Draw the factors from end to end, initializer by activation, and the verdicts, and return the axes.

    `quantity`: forward, backward, verdict, several of them, or "all". A cell has the colour and the mark of its own
    factor, in decades: ! and ✗ where such a factor alone makes a network strained or broken.
    """
    with _drawing(ax, style, None, title, caption) as look:
        chosen = _chosen(quantity, ("forward", "backward", "verdict"))
        hint = "record the direction (forward, backward)"
        prepared = _recorded(prepare_overview(_profiles(profiles)), chosen, hint)
        by_name: dict[str, FactorMap | VerdictMap] = {found.direction: found for found in prepared.maps}
        by_name["verdict"] = prepared.verdicts
        panels = _recorded([by_name[name] for name in chosen if name in by_name], chosen, hint)
        colours = _colormap(palette) or FACTOR_COLOURS
        if ax is None:
            shown = _headed(prepared, look, title, caption, len(panels))
            figure = draw_overview(shown, _figure(look), look=look, colours=colours, panels=panels)
            drawn = figure.axes[: len(panels)]
        else:
            drawn = _given(ax, [name for name in chosen if name in by_name])
            for axes, panel in zip(drawn, panels, strict=True):
                draw_factors(axes, prepared, panel, colours=colours)
        return _finished(drawn, ax, title, caption)


@checks.known_arguments
def phase(
    chart: PhaseChart,
    ax: Drawn = None,
    *,
    profiles: ProfileSet | None = None,
    style: Style | None = None,
    title: str | None = None,
    caption: str | None = None,
    palette: str | None = None,
) -> Drawn:
    """Draw the order-to-chaos diagram of an activation and return the axes.

    `chart`: the plane of both variances, as `propscope.theory.phase.phase_chart("tanh")` gives it. The colours are the
    correlation depth. `profiles`: networks whose measured depths are drawn as dots over it, each at the variances of
    its weights and biases.
    """
    with _drawing(ax, style, None, title, caption) as look:
        if not isinstance(chart, PhaseChart):
            raise InputError(
                f"chart must be a phase chart, got {checks.shown(chart)}",
                hint='propscope.theory.phase.phase_chart("tanh") computes that of an activation',
            )
        measured = () if profiles is None else measured_depths(_profiles(profiles), chart)
        own = _colormap(palette)
        colours = DEPTH_COLOURS if own is None else own.name
        if ax is None:
            prepared = prepare_phase(chart, measured=measured, size=room_for_map(look))
            shown = _headed(prepared, look, title, caption, 2)
            drawn = draw_phase(shown, _figure(look), look=look, colours=colours).axes[:1]
            return _finished(drawn, ax, title, caption, several=True)
        drawn = _given(ax, ["the map"])
        prepared = prepare_phase(chart, measured=measured, size=extent_of(drawn[0]))
        draw_plane(drawn[0], prepared, colours=colours)
        draw_depths(drawn[0], None)
        drawn[0].set_title(prepared.header.title)
        return _finished(drawn, ax, title, caption)


@checks.known_arguments
def learning(
    runs: TrainingRun | TrainingSet | MonitoredRun,
    ax: Drawn = None,
    *,
    quantity: str | Sequence[str] = "loss",
    style: Style | None = None,
    title: str | None = None,
    caption: str | None = None,
    palette: str | Sequence[str] | None = None,
    legend: Legend | None = None,
) -> Drawn:
    """Draw how trainings went, one line an initializer, or a monitored run step by step, and return the axes.

    `quantity`: loss or accuracy of trainings, with a panel for each activation; loss, gradient_norm, learning_rate,
    clip_factor or loss_scale of a monitored run; several of them, or "all".
    """
    if isinstance(runs, MonitoredRun):
        return _steps(runs, ax, quantity, style, title, caption, palette)
    with _drawing(ax, style, legend, title, caption) as look:
        chosen = _chosen(quantity, [measure.name for measure in MEASURES])
        hint = "a regression has no accuracy; take quantity='loss'"
        prepared = _recorded(prepare_learning(_trainings(runs), quantities=chosen), chosen, hint)
        panels = [panel for row in prepared.panels for panel in row if panel is not None]
        colours = _line_colours(palette, len(prepared.names))
        if ax is None:
            shown = _headed(prepared, look, title, caption, len(panels))
            titled = title != "" or len(panels) > 1
            drawn = draw_learning(shown, _figure(look), look=look, palette=colours, titled=titled).axes
        else:
            drawn = _given(ax, [_called(panel.measure.name, panel.column) for panel in panels])
            lines = learning_styles(prepared, colours)
            for axes, each in zip(drawn, panels, strict=True):
                draw_learning_panel(axes, each, lines, legend=look.legend)
        return _finished(drawn, ax, title, caption)


def _steps(
    run: MonitoredRun,
    ax: Drawn,
    quantity: str | Sequence[str],
    style: Style | None,
    title: str | None,
    caption: str | None,
    palette: str | Sequence[str] | None,
) -> Drawn:
    with _drawing(ax, style, None, title, caption) as look:
        named = {each.name: each for each in STEP_QUANTITIES}
        chosen = _chosen(quantity, named)
        found = prepare_steps(RunView(run), quantities=[named[name] for name in chosen])
        prepared = _recorded(found, chosen, "monitor(optimizer=...) sees the learning rate, step(loss) the loss")
        colour = _colour(palette)
        if ax is None:
            shown = _headed(prepared, look, title, caption, len(prepared.panels))
            drawn = draw_steps(shown, _figure(look), look=look, colour=colour).axes
        else:
            drawn = _given(ax, [panel.label for panel in prepared.panels])
            for axes, panel in zip(drawn, prepared.panels, strict=True):
                draw_step_panel(axes, panel, prepared.axis, colour=colour)
                draw_alarms(axes, prepared.axis, numbers=False)
                draw_step_axis(axes, prepared.axis)
        return _finished(drawn, ax, title, caption)


@checks.known_arguments
def heatmap(
    run: MonitoredRun,
    ax: Drawn = None,
    *,
    quantity: str | Sequence[str] = "forward",
    sites: str | None = None,
    style: Style | None = None,
    title: str | None = None,
    caption: str | None = None,
    palette: str | Colormap | None = None,
) -> Drawn:
    """Draw the sites of a monitored run against its steps, one row a site, and return the axes.

    `quantity`: forward, backward, updates, dead_units, attention_entropy, largest_logit, effective_rank, mean_cosine,
    several of them, or "all". `sites`: a regular expression for the sites that are shown. Circles mark what alarms
    name.
    """
    with _drawing(ax, style, None, title, caption) as look:
        if not isinstance(run, MonitoredRun):
            raise InputError(
                f"run must be a monitored run, got {checks.shown(run)}",
                hint="propscope.load reads the file of a monitored training; overview shows profiles as a map",
            )
        view = RunView(run, sites)
        view.check()
        chosen = _chosen(quantity, MAPS)
        hint = "look again when the run has samples; monitor(...) says what else it records"
        if ax is None:
            prepared = _recorded(prepare_maps(view, *(MAPS[name] for name in chosen)), chosen, hint)
            shown = _headed(prepared, look, title, caption, len(prepared.maps))
            figure = draw_step_maps(shown, _figure(look), look=look, colours=_colormap(palette))
            drawn = [axes for axes in figure.axes if axes.get_gid() == "map"]
            return _finished(drawn, ax, title, caption)
        maps = [found for name in chosen if (found := prepare_map(view, MAPS[name])) is not None]
        drawn = _given(ax, [found.title for found in _recorded(maps, chosen, hint)])
        for axes, each in zip(drawn, maps, strict=True):
            width, height = extent_of(axes)
            names = row_labels(each, height / len(each.names), min(40, max(12, int(4 * width))))
            draw_map(axes, each, names, colours=_colormap(palette))
            draw_alarms(axes, each.axis, numbers=False)
            draw_step_axis(axes, each.axis)
            draw_colours(axes, each, colours=_colormap(palette))
            axes.set_title(wrapped_title(axes, each.title))
        return _finished(drawn, ax, title, caption)


@contextmanager
def _drawing(
    ax: Drawn, style: Style | None, legend: Legend | None, title: str | None, caption: str | None
) -> Iterator[Look]:
    """Set matplotlib for a style, as long as something is drawn; a figure of the user's keeps its own settings."""
    for name, text in (("title", title), ("caption", caption)):
        if text is not None and not isinstance(text, str):
            raise InputError(f"{name} must be a text, got {checks.shown(text)}", hint='"" stands for none')
    look = SCREEN if style is None else look_of(style)
    if legend is not None:
        checks.one_of("legend", legend, LEGENDS)
        look = replace(look, legend=legend)
    elif ax is not None:
        look = replace(look, legend="inside")
    if ax is not None and style is None:
        yield look
        return
    with styled(look):
        for axes in () if ax is None else np.ravel(np.asarray(ax, dtype=object)):
            if isinstance(axes, Axes):
                _restyle(axes)
        yield look


def _restyle(axes: Axes) -> None:
    """Give what an axes had before the settings that hold now."""
    set_to: Any = rcParams
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=set_to["axes.labelsize"], fontfamily=set_to["font.family"])
        axis.label.set_color(set_to["axes.labelcolor"])
    axes.tick_params(**{name: set_to[f"xtick.{name}"] for name in ("labelsize", "color", "labelcolor")})
    for side, spine in axes.spines.items():
        spine.set(linewidth=set_to["axes.linewidth"], edgecolor=set_to["axes.edgecolor"])
        spine.set_visible(set_to[f"axes.spines.{side}"])


def _figure(look: Look) -> Figure:
    """Return a new figure, which `plt.show` and notebooks know where pyplot is in use."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    figure: TextFigure = TextFigure(dpi=DPI) if pyplot is None else pyplot.figure(FigureClass=TextFigure, dpi=DPI)
    figure.look = look
    return figure


def _given(ax: Drawn, names: Sequence[str]) -> list[Axes]:
    given = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    for each in given:
        if not isinstance(each, Axes):
            raise InputError(
                f"ax must be axes of matplotlib, got {checks.shown(each)}",
                hint=_AXES_HINT,
            )
        if each.figure is None:
            raise InputError("ax must be axes of a figure, got axes that were removed from theirs", hint=_AXES_HINT)
    if len(given) != len(names):
        raise InputError(
            f"ax must be {len(names)} axes, for {', '.join(names)}, got {len(given)}",
            hint="give as many axes, choose one quantity, or select one activation",
        )
    figure: Any = given[0].figure.figure
    if figure.get_layout_engine() is not None:
        # What is drawn depends on the size of the axes, which the layout sets.
        figure.draw_without_rendering()
    return given


def _finished(
    drawn: Sequence[Axes], ax: Drawn, title: str | None, caption: str | None, *, several: bool = False
) -> Drawn:
    if title is not None and len(drawn) == 1 and not several:
        drawn[0].set_title(title)
    for axes in drawn:
        _keep_out_of_layout(axes, own=ax is None)
    if ax is not None:
        if caption:
            _write_below(drawn[-1], caption)
        return ax
    if len(drawn) == 1:
        return drawn[0]
    grid = np.empty(len(drawn), dtype=object)
    grid[:] = drawn
    return grid


def _keep_out_of_layout(axes: Axes, *, own: bool) -> None:
    """Let texts that stand within the axes have no part in the layout of the figure, nor lines without a point."""
    empty = [line for line in axes.lines if not np.size(line.get_xdata())]
    within = [text for text in axes.texts if text.get_transform() in (axes.transData, axes.transAxes)]
    for artist in empty if own else (*empty, *within):
        artist.set_in_layout(False)


def _write_below(axes: Axes, caption: str) -> None:
    characters = max(12, int(extent_of(axes)[0] / (0.55 * 10 / 72)))
    offset = (0, -36 * unit())
    axes.annotate("\n".join(wrap(caption, characters)), (0, 0), offset, "axes fraction", "offset points", va="top")


def _headed(prepared: T, look: Look, title: str | None, caption: str | None, panels: int) -> T:
    """Return a picture with the texts of the figure itself: a title that is for its only panel is none of them."""
    picture: Any = prepared
    own = title if panels > 1 or title == "" else None
    headed: T = replace(picture, header=picture.header.shown(look, title=own, caption=caption))
    return headed


def _called(name: str, column: str) -> str:
    return f"{name} of {column}" if column else name


def _profiles(given: object) -> ProfileSet:
    if isinstance(given, MonitoredRun):
        standing = [at for at, labels in enumerate(given._every_label()) if "step" in labels]
        given = ProfileSet.of(given[at] for at in evenly(standing, SAMPLES_AT_MOST))
    if isinstance(given, NetworkProfile):
        given = ProfileSet((given,))
    if not isinstance(given, ProfileSet):
        raise InputError(
            f"profiles must be a profile or a set of profiles, got {checks.shown(given)}",
            hint="propscope.profile_mlp, profile, track and load give them",
        )
    if not len(given):
        raise NothingToDrawError("nothing to draw: there is no profile", hint="draw profiles or a run with samples")
    named: ProfileSet = escaped(given)
    return named


def _trainings(given: object) -> TrainingSet:
    if isinstance(given, TrainingRun):
        given = TrainingSet((given,))
    if not isinstance(given, TrainingSet):
        raise InputError(
            f"runs must be trainings or a monitored run, got {checks.shown(given)}",
            hint="propscope.train_mlp and load give them",
        )
    if not len(given):
        raise NothingToDrawError("nothing to draw: there is no training", hint="propscope.train_mlp gives some")
    named: TrainingSet = escaped(given)
    return named


def _recorded(found: T | None, names: Sequence[str], hint: str) -> T:
    if not found:
        raise NothingToDrawError(f"nothing to draw: {', '.join(names)} was not recorded", hint=hint)
    return found


def _chosen(quantity: Any, valid: Sequence[str] | Mapping[str, Any], *, one: bool = False) -> list[str]:
    """Return the names of the quantities that are asked for."""
    if quantity == "all" and not one:
        return list(valid)
    several = isinstance(quantity, Sequence) and not isinstance(quantity, str) and not one
    names = list(quantity) if several else [quantity]
    for name in names or [quantity]:
        if not isinstance(name, str) or name not in valid:
            raise InputError(f"quantity must be one of {', '.join(valid)}, got {checks.shown(name)}")
    return names


def _line_colours(palette: str | Sequence[str] | None, lines: int) -> list[Any] | None:
    """Return the colours of lines: those given, or those of a colormap, spread over the lines if it is continuous."""
    if palette is None:
        return None
    if isinstance(palette, str) and palette in colormaps:
        own = getattr(colormaps[palette], "colors", ())
        # A qualitative map has few colours; the light end of others does not show on white.
        at = np.linspace(0.0, 0.85, max(lines, 2))
        return list(own) if 0 < len(own) <= 20 else [tuple(each) for each in colormaps[palette](at)]
    colours = list(palette) if isinstance(palette, Sequence) and not isinstance(palette, str) else [palette]
    for colour in colours or [""]:
        if not is_color_like(colour):
            raise InputError(
                f"palette must name a colormap of matplotlib or list colours, got {checks.shown(colour)}",
                hint='for example palette="viridis" or palette=["#0072b2", "black"]',
            )
    return colours


def _colour(palette: str | Sequence[str] | None) -> str | None:
    colours = _line_colours(palette, 1)
    return None if colours is None else colours[0]


def _colormap(palette: str | Colormap | None) -> Colormap | None:
    if palette is None or isinstance(palette, Colormap):
        return palette
    if not isinstance(palette, str) or palette not in colormaps:
        raise InputError(
            f"palette must name a colormap of matplotlib, got {checks.shown(palette)}", hint='for example "viridis"'
        )
    return colormaps[palette]
