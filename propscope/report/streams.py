"""What residual streams and attention show over a whole network, each in a sentence."""

from __future__ import annotations

from propscope.records.network import NetworkProfile, Site
from propscope.records.numerals import number, percent


def stream_sentence(profile: NetworkProfile) -> str:
    """Return how the residual stream grows from the first sum to the last, and the share that each branch brings.

    The growth is the ratio of the rms of the sums; a branch's share is of the mean squares of branch and stream.
    "" without two residual sums.
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
        f"{sums[-1].name}{growth}; branches bring {percent(least.branch_share)} ({least.name}) to "
        f"{percent(most.branch_share)} ({most.name}) of a sum's mean square"
    )


def attention_sentence(profile: NetworkProfile) -> str:
    """Return the range of the attention's mean row entropy, in nats, and its largest logit; "" without attention."""
    seen = [site for site in profile.sites if site.attention_entropy is not None]
    if not seen:
        return ""
    low, high = min(seen, key=_entropy), max(seen, key=_entropy)
    top = max(seen, key=lambda site: site.largest_logit if site.largest_logit is not None else float("-inf"))
    return (
        f"attention: mean entropy {number(low.attention_entropy)} nat ({low.name}) to "
        f"{number(high.attention_entropy)} nat ({high.name}); largest logit {number(top.largest_logit)} ({top.name})"
    )


def _share(site: Site) -> float:
    return site.branch_share if site.branch_share is not None else 0.0


def _entropy(site: Site) -> float:
    return site.attention_entropy if site.attention_entropy is not None else 0.0
