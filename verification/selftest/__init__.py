"""The judge judged: synthetic systems whose truth is known go through the real pipeline, many times.

    systems of known truth → history or observations → the judge's checkers, estimators → verdicts → rates

`cases` says which systems there are, `playing` plays them and counts how often each judge was wrong. Naive
judges see the same data: whoever compares a mean, a sample quantile or thirty trials with a target.
"""

from verification.selftest.cases import Case
from verification.selftest.playing import FILE, holds, run

__all__ = ["FILE", "Case", "holds", "run"]
