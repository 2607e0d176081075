"""Compares the answers of two folders that `crossvit serve --answer-log` has written: python drift.py BEFORE NOW.

For each figure of the answers: its means, and the two-sample Kolmogorov-Smirnov test, whose p is the probability that
two samples of one distribution are as far apart by chance. Exit status 1 if a p is below 0.01. Needs pandas, pyarrow
and scipy.
"""

import sys

import pandas as pd
from scipy.stats import ks_2samp

FIGURES = ("score", "entropy", "disagreement")
LEAST_P = 0.01


def main(before: str, now: str) -> int:
    one, other = pd.read_parquet(before), pd.read_parquet(now)
    if one.empty or other.empty:
        sys.exit(f"no answers in {before if one.empty else now}")
    print(f"{len(one)} answers before, {len(other)} now")
    if set(one["weights"]) != set(other["weights"]):
        print("the weights differ: the figures of different networks say nothing about the images")
    drifted = False
    for figure in FIGURES:
        found = ks_2samp(one[figure], other[figure])
        means = f"mean {one[figure].mean():.3f} before, {other[figure].mean():.3f} now"
        print(f"{figure:12} {means}; KS {found.statistic:.3f}, p {found.pvalue:.2g}")
        drifted = drifted or found.pvalue < LEAST_P
    return int(drifted)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
