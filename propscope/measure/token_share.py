"""The share of the tokens that reach what runs on some of them only, as an expert of a mixture does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from propscope.records.network import Site

# What chooses elements by a tensor of positions or of truth values. `getitem` takes numbers and slices.
_CHOOSES = frozenset(("index", "index_select", "gather", "take_along_dim", "masked_select", "take"))


def with_token_shares(sites: Mapping[str, Site]) -> dict[str, Site]:
    """Return the sites, in execution order, with the share of tokens where a routing chose what reaches them.

    A token is one position of a sample. The share is the number of tokens at the site over that at the parent from
    which they were chosen by index, over all batches, times the parent's own share. It goes on to what is computed from
    as many tokens, and ends where they are put back among the others.
    """
    done: dict[str, Site] = {}
    named: dict[str, Site] = {}
    for key, site in sites.items():
        share = None if site.role == "input" else _share(site, named)
        done[key] = named[site.name] = site if share is None else replace(site, token_share=share)
    return done


def _share(site: Site, before: Mapping[str, Site]) -> float | None:
    tokens, found = _tokens(site), []
    for parent in site.parents or ():
        source = before.get(parent.name)
        if source is None or not tokens or not (given := _tokens(source)):
            continue
        if not _CHOOSES.isdisjoint(parent.operations) and tokens < given:
            found.append(tokens / given * (1.0 if source.token_share is None else source.token_share))
        elif tokens == given and source.token_share is not None:
            found.append(source.token_share)
    return max(found, default=None)


def _tokens(site: Site) -> float:
    return site.forward.count / site.features if site.forward is not None and site.features else 0.0
