"""`propscope control`: changes which steps of a run that goes on are sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.loudness import quiet
from propscope.printable import printable


def control(
    file: Annotated[Path, typer.Argument(metavar="RUN", help="The file of the run.", show_default=False)],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SETTING...",
            help="every=N, start=N, stop=N or stop=none, budget=SHARE or budget=none, sample, off, on.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Change which steps of a monitored run are sampled, while another process runs it.

    `sample` asks for one full sample, `off` takes none but those that are asked for, `on` goes on. The run looks for
    changes once a second, at the beginning of a step.
    """
    from propscope.store.control_file import change_run

    target = change_run(file, settings or [])
    if not quiet():
        print(f"asked {printable(str(target))} for {printable(', '.join(settings or []))}")
