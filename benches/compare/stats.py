"""Medians, and how sure they are.

The interval of a median needs no assumption about how the values are distributed: the k-th smallest and the k-th
largest of n values enclose the true median with a probability that only n and k decide (a coin is thrown n times).
"""

from math import comb

CONFIDENCE = 0.95


def median(values):
    """
    >>> median([3, 1, 2])
    2
    >>> median([4, 1, 2, 3])
    2.5
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def interval(values):
    """The narrowest pair of order statistics that encloses the median with 95 % confidence, or None for too few values.

    >>> interval(range(1, 11))
    (2, 9)
    >>> interval(range(1, 7))
    (1, 6)
    >>> interval(range(1, 6)) is None
    True
    """
    ordered = sorted(values)
    best = None
    for k in range(1, len(ordered) // 2 + 1):
        # The true median lies outside when fewer than k values fall on one of its sides.
        outside = 2 * sum(comb(len(ordered), i) for i in range(k)) / 2 ** len(ordered)
        if 1 - outside >= CONFIDENCE:
            best = (ordered[k - 1], ordered[-k])
    return best
