"""The one door from a record to something to read: `print(record)` and notebooks load `propscope.report` on demand.

Records know nothing of how they are shown. This module is the only one of `records` that loads what stands above it,
and only when a record is printed.
"""

from __future__ import annotations

from typing import Any, TextIO


def as_text(record: Any) -> str:
    """Return what `print(record)` shows."""
    from propscope.report.display import text_of

    return text_of(record)


def as_html(record: Any) -> str:
    """Return what a notebook shows of a record: an HTML element."""
    from propscope.report.display import html_of

    return html_of(record)


def as_document(record: Any) -> dict[str, Any]:
    """Return what `--json` prints of a comparison."""
    from propscope.report.documents import comparison_document

    return comparison_document(record)


def as_page(record: Any, title: str, against: Any) -> str:
    """Return one self-contained HTML page of a record, with a section that compares it with another one."""
    from propscope.report.page import compared, page_html

    return page_html(record, title=title, against=compared(record, against))


def print_inspection(profile: Any, costs: Any, *, file: TextIO | None, **view: Any) -> None:
    """Print a profile and the costs of its model to `file`, None for stdout; as `propscope.summary` does."""
    from propscope.report.display import print_inspection

    print_inspection(profile, costs, file=file, **view)
