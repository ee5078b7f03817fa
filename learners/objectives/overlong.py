"""DAPO's soft price on overlong answers (arXiv 2503.14476, equation 13).

0                                   length <= limit - buffer
(limit - buffer - length) / buffer  up to the limit
-1                                  beyond it
"""


def overlong_penalty(length: int, *, limit: int, buffer: int) -> float:
    """In [-1, 0]; added to the reward. Lengths in tokens."""
    return -min(1.0, max(0.0, (length - (limit - buffer)) / buffer))
