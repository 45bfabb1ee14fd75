"""The precision that a network really ran in: of its products, as the runtime's own graph has them."""

from collections import Counter


def precision_said(products: Counter[str]) -> str | None:
    """`int8`, or `int8 (17 of 25 products; else float32)`; None of a network without any."""
    if len(products) < 2:
        return next(iter(products), None)
    (most, count), *rest = products.most_common()
    return f"{most} ({count} of {products.total()} products; else {', '.join(sorted(name for name, _ in rest))})"
