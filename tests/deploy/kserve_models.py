"""Run by the Python that has the package `kserve`: every field of a manifest is one of KServe's or Kubernetes' models.

Prints JSON: for each object its kind and the fields that no model has. Arguments: the manifests, as files.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kserve.models
import kubernetes.client.models
import yaml

ROOTS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}


def unknown_fields(value: Any, kind: str, path: str = "") -> Iterator[str]:
    """The paths of `value` that are not fields of the model called `kind`."""
    if inner := re.fullmatch(r"[Ll]ist\[(.+)\]|[Dd]ict[(\[]str, (.+)[)\]]", kind):
        items = enumerate(value) if isinstance(value, list) else value.items()
        for name, each in items:
            yield from unknown_fields(each, inner[1] or inner[2], f"{path}/{name}")
        return
    kind = re.sub(r"^K8sIoApi(Autoscaling|Apps)(?=V\d)", "", kind)
    model = getattr(kserve.models, kind, None) or getattr(kubernetes.client.models, kind, None)
    if model is None:  # text, a number, a quantity
        yield from [path] if isinstance(value, dict | list) else []
        return
    if not isinstance(value, dict):
        yield path
        return
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    for name, each in value.items():
        if name in names:
            yield from unknown_fields(each, model.openapi_types[names[name]], f"{path}/{name}")
        else:
            yield f"{path}/{name}"


def main() -> None:
    manifests = [manifest for path in sys.argv[1:] for manifest in yaml.safe_load_all(Path(path).read_text())]
    print(json.dumps([[each["kind"], list(unknown_fields(each, ROOTS[each["kind"]]))] for each in manifests]))


if __name__ == "__main__":
    main()
