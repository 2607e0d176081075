"""The options of `crossvit pull` as words: each begins with --, and its values follow it."""

from collections.abc import Sequence


def without_option(options: Sequence[str], name: str) -> list[str]:
    """`options` without the one called `name`."""
    return [word for known, words in _grouped(options) if known != name for word in words]


def replaced_options(options: Sequence[str], others: Sequence[str]) -> list[str]:
    """`options` with `others`, which take the place of those of the same name."""
    new = {name for name, _ in _grouped(others)}
    return [word for name, words in _grouped(options) if name not in new for word in words] + list(others)


def same_options(options: Sequence[str], others: Sequence[str]) -> bool:
    """Whether both are the same but for their order."""
    return sorted(_grouped(options)) == sorted(_grouped(others))


def _grouped(options: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each option's name, and its words with the name."""
    groups: list[tuple[str, list[str]]] = []
    for word in options:
        if word.startswith("--") or not groups:
            groups.append((word, []))
        groups[-1][1].append(word)
    return groups
