"""`read_spec`: what a profile says it was made from; the only reader of the text in `Provenance.spec`."""

from __future__ import annotations

import json
from typing import Any

from propscope.records.network import Provenance


def read_spec(provenance: Provenance) -> dict[str, Any]:
    """Return the JSON object that the spec of a profile or run is; empty where the text is something else.

    The text may come from a stranger's file, so it is data: nothing that it names may be imported, opened or run.
    `propscope.remedies.rebuild.request_of` is the one function that makes a network of it, and refuses such names.
    """
    try:
        content = json.loads(provenance.spec)
    except (TypeError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
