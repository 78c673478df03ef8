"""How sure a finding is."""


def succession(shown: int, seeds: int) -> float:
    """Return the probability that the next seed shows it too: (k + 1) / (n + 2), Laplace's rule of succession."""
    return (shown + 1) / (seeds + 2)
