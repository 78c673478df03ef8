"""`propscope report`: a result file as one HTML page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from propscope.cli.file_or_target import loaded
from propscope.cli.loudness import timed
from propscope.cli.options import RESULTS, File, Overwrite, Selection, option
from propscope.errors import InputError
from propscope.printable import printable


def report(
    file: File,
    *,
    output: Annotated[
        Path | None,
        option("Page to write. [default: beside the file, with the ending .html]", RESULTS, "--output", "-o"),
    ] = None,
    against: Annotated[
        Path | None,
        option("Result file to compare with, in a section of the page; as `propscope compare` does.", RESULTS),
    ] = None,
    selection: Selection,
    overwrite: Overwrite = False,
) -> None:
    """Write a result file as one HTML page that opens in any browser, also from a mail, without the network.

    It shows the verdict and what to change, the signal along the depth, the network as a graph, every site, and of a
    monitored run its alarms and maps over the steps. A LIST is separated by commas.
    """
    from propscope.comparison import compare
    from propscope.report.page import page_html
    from propscope.store import check_output, target_of, write_text

    if output is not None:
        if output.suffix not in (".html", ".htm"):
            raise InputError(f'--output must end in .html, got "{output!s}"')
        check_output(output, overwrite=overwrite)
    record = selection.load(file)
    found = None
    if against is not None:
        # It refuses trainings.
        found = compare(loaded(against, selection), record)  # type: ignore[arg-type]
        found = replace(found, names=(target_of(against).name, target_of(file).name))
    whole = target_of(file)
    path = whole.with_suffix(".html") if output is None else output
    check_output(path, overwrite=overwrite)
    with timed(f"writing {path}"):
        write_text(path, page_html(record, title=whole.name, against=found), overwrite=overwrite)
    print(printable(str(path)))
