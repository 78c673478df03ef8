"""The page around a document: one file without any address in it, which a browser may not let out to the network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from propscope.printable import printable
from propscope.records.comparison import Comparison
from propscope.records.labelled import LabelledSet
from propscope.records.network import NetworkProfile
from propscope.records.training import TrainingRun
from propscope.report.page.document import page_document

# What could end a script element; the rest of the document is ASCII.
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def page_html(
    record: NetworkProfile | TrainingRun | LabelledSet[Any], *, title: str = "", against: Comparison | None = None
) -> str:
    """Return one self-contained HTML page of a profile, a set of profiles or trainings, or a monitored run.

    `against`: a comparison whose second side the record is, which gets a section.

    It opens from a mail attachment: style, script and data stand inside, and its Content-Security-Policy forbids the
    network. Raises `InputError` for a set that holds nothing.
    """
    title = printable(title)
    document = page_document(record, title=title, against=against)
    style, script = _part("page.css"), _part("page.js")
    parts = {
        "POLICY": f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(f"{title or 'propscope'}: {document['kind']}"),
        "SUMMARY": "".join(f"<p>{html.escape(printable(line))}</p>" for line in _summary(document)),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": json.dumps(document, separators=(",", ":")).translate(_ESCAPES),
    }
    # One pass: what is put in is not looked at again.
    return re.sub(r"<!--(\w+)-->", lambda place: parts[place[1]], _part("page.html"))


def _summary(document: dict[str, Any]) -> list[str]:
    """Return what stands on the page where no script runs, as in the preview of a mail program."""
    if "run" in document:
        lines: list[str] = document["run"]["lines"]
        return lines
    networks = document["networks"]
    if len(networks) == 1:
        return [*networks[0]["lines"], *networks[0]["inputs"]]
    return [f"{each['name']}: {each['lines'][0]}" for each in networks]


@cache
def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
