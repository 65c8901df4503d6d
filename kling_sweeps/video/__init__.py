"""Video files: opened, decoded, described and pictured."""

from math import nan

# 8K: a frame takes 100 MB as BGR.
MAX_PIXELS = 7680 * 4320


def ratio(numerator: float, denominator: float) -> float:
    """Divide; NaN by what is not above 0."""
    return numerator / denominator if denominator > 0 else nan
