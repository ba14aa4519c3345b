"""How a cost grows with a size: the exponent of a power law, by least squares on logarithms."""

import math
import statistics
from collections.abc import Sequence


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """k of cost ~ size^k; None of fewer than two sizes with a cost above 0."""
    points = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if cost > 0]
    if len({size for size, _ in points}) < 2:
        return None
    logs = [(math.log(size), math.log(cost)) for size, cost in points]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope


def said(what: str, sizes: Sequence[float], costs: Sequence[float]) -> str:
    """`time ~ n^0.98, at the end n^1.02`: over all sizes, and between the last two.

    What each run costs however little it does makes the first figure smaller than it is.
    """
    every, last = growth(sizes, costs), growth(sizes[-2:], costs[-2:])
    if every is None:
        return f"{what}: too few sizes"
    text = f"{what} ~ n^{every:.2f}"
    return text if last is None else f"{text}, at the end n^{last:.2f}"
