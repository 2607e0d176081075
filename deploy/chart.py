"""The chart as its Helm SDK reads it: linted, and rendered to objects of Kubernetes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parent / "helm" / "crossvit"
GPU_VALUES: Mapping[str, Any] = yaml.safe_load((CHART / "values-gpu.yaml").read_text())
Manifest = dict[str, Any]


class ChartError(Exception):
    """The chart cannot be rendered with these values; the message says why."""


def rendered(
    values: Mapping[str, Any] | None = None, name: str = "crossvit", namespace: str = "default"
) -> list[Manifest]:
    """The objects that the chart makes of `values` over its own, in the order of its files. Raises ChartError."""
    files = rendered_files(values, name, namespace)
    return [manifest for file, text in files.items() if file.endswith(".yaml") for manifest in _objects(text)]


def rendered_files(
    values: Mapping[str, Any] | None = None, name: str = "crossvit", namespace: str = "default"
) -> dict[str, str]:
    """The text of each template. Raises ChartError."""
    try:
        with helm_python.Chart.load(str(CHART)) as chart:
            files = chart.render(dict(values or {}), name=name, namespace=namespace)
    except helm_python.HelmError as err:
        raise ChartError(str(err)) from err
    return dict(sorted(files.items()))


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """What Helm makes of several files of values: groups are merged, and of one value the last counts."""
    whole: dict[str, Any] = {}
    for part in values:
        for name, value in part.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(name), Mapping)
            whole[name] = merged(whole[name], value) if both else value
    return whole


def _objects(text: str) -> Iterator[Manifest]:
    return (manifest for manifest in yaml.safe_load_all(text) if manifest)
