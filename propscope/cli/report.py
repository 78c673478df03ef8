"""`propscope report`: a result file as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from propscope.cli.options import (
    RESULTS,
    Act,
    Depth,
    File,
    Init,
    Overwrite,
    Seed,
    Step,
    Width,
    chosen_labels,
    option,
    warnings_as_lines,
)
from propscope.errors import InputError
from propscope.printable import printable


def report(
    file: File,
    output: Annotated[
        Path | None,
        option("Page to write. [default: beside the file, with the ending .html]", RESULTS, "--output", "-o"),
    ] = None,
    act: Act = None,
    init: Init = None,
    depth: Depth = None,
    width: Width = None,
    seed: Seed = None,
    step: Step = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a result file as one HTML page that opens in any browser, also from a mail, without the network.

    It shows the verdict and what to change, the signal along the depth, the network as a graph, every site, and of a
    monitored run its alarms and maps over the steps. A LIST is separated by commas; names must be written as in the
    file.
    """
    from propscope.records import MonitoredRun, ProfileSet
    from propscope.store import check_output, load, target_of, write_text

    if output is not None:
        if output.suffix not in (".html", ".htm"):
            raise InputError(f'--output must end in .html, got "{output!s}"')
        check_output(output, overwrite=overwrite)
    chosen = chosen_labels(act=act, init=init, depth=depth, width=width, seed=seed, step=step)
    with warnings_as_lines():
        record = load(file, **chosen)
    if isinstance(record, MonitoredRun) and chosen:
        # What is chosen of a run are samples, each a network of its own.
        record = ProfileSet(tuple(record))
    whole = target_of(file)
    path = whole.with_suffix(".html") if output is None else output
    check_output(path, overwrite=overwrite)
    write_text(path, record.to_html(title=whole.name), overwrite=overwrite)
    print(printable(str(path)))
