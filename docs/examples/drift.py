"""Compares the answers of two folders that `crossvit serve --answer-log` has written: python drift.py BEFORE NOW.

Only answers of the same model, weights, resolution and precision are compared. For each figure of them: its means, and
the two-sample Kolmogorov-Smirnov test, whose p is the probability that two samples of one distribution are as far apart
by chance. Exit status 1 if a p is below 0.01, 2 if there is nothing to compare. Needs pandas, pyarrow and scipy.
"""

import sys
from pathlib import Path

import pandas as pd
from scipy.stats import ks_2samp

FIGURES = ("score", "entropy", "disagreement")
GROUP = ["model", "weights", "resolution", "precision"]
LEAST_P = 0.01

Groups = dict[tuple[str, str, int, str], pd.DataFrame]


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        return misuse("usage: python drift.py BEFORE NOW, two folders of answers")
    for folder in arguments:
        if not any(Path(folder).glob("*.parquet")):
            return misuse(f"no answers in {folder}: there is no file *.parquet")
    before, now = map(groups, arguments)
    shared = before.keys() & now.keys()
    for group in sorted(before.keys() ^ now.keys()):
        print(f"{title(group)}: only in {arguments[0] if group in before else arguments[1]}, not compared")
    if not shared:
        return misuse("nothing to compare: the folders share no model with the same weights, resolution and precision")
    drifted = [has_drifted(group, before[group], now[group]) for group in sorted(shared)]
    return int(any(drifted))


def misuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


def groups(folder: str) -> Groups:
    """The answers in `folder` by GROUP."""
    return dict(iter(pd.read_parquet(folder).groupby(GROUP)))


def title(group: tuple[str, str, int, str]) -> str:
    model, weights, resolution, precision = group
    return f"{model} ({weights[:19]}) at {resolution} in {precision}"


def has_drifted(group: tuple[str, str, int, str], before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Print the figures of one group."""
    print(f"{title(group)}: {len(before)} answers before, {len(now)} now")
    found = {figure: ks_2samp(before[figure], now[figure]) for figure in FIGURES}
    for figure, test in found.items():
        means = f"mean {before[figure].mean():.3f} before, {now[figure].mean():.3f} now"
        print(f"{figure:12} {means}; KS {test.statistic:.3f}, p {test.pvalue:.2g}")
    return any(test.pvalue < LEAST_P for test in found.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
