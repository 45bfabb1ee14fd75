"""Whole numbers in given proportions, each within its limits, whose sum is exact."""

from collections.abc import Mapping

Counts = dict[str, int]


def apportion(weights: Mapping[str, float], limits: Mapping[str, int], total: int) -> Counts:
    """Whole numbers in proportion to `weights`, each at most its limit, whose sum is exactly `total`."""
    assert 0 <= total <= sum(limits.values())
    full: set[str] = set()
    while True:  # a layer whose share passes its limit takes the limit, and the others share what that leaves
        free = total - sum(limits[name] for name in full)
        scale = free / (sum(weights[name] for name in weights if name not in full) or 1.0)
        over = {name for name in weights if name not in full and scale * weights[name] > limits[name]}
        if not over:
            break
        full |= over
    shares = {name: float(limits[name]) if name in full else scale * weights[name] for name in weights}
    counts = {name: min(int(share), limits[name]) for name, share in shares.items()}
    by_remainder = sorted(weights, key=lambda name: counts[name] - shares[name])
    missing = total - sum(counts.values())
    while missing:
        for name in by_remainder:
            if missing and counts[name] < limits[name]:
                counts[name] += 1
                missing -= 1
    return counts


def apportion_evenly(sizes: Mapping[str, int], least: Mapping[str, int], total: int) -> Counts:
    """The same share of each size, but nowhere below `least`, whose sum is exactly `total`."""
    assert sum(least[name] for name in sizes) <= total
    held: set[str] = set()
    while True:  # one that has more than its share keeps it, and the others share what that leaves
        free = {name: size for name, size in sizes.items() if name not in held}
        shared = apportion(
            {n: float(size) for n, size in free.items()}, free, total - sum(least[name] for name in held)
        )
        under = {name for name in free if shared[name] < least[name]}
        if not under:
            return {name: least[name] if name in held else shared[name] for name in sizes}
        held |= under
