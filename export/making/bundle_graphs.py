"""Writing the served graph and the inspection graph of the same weights, which are stored once."""

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from bundle.file_names import INSPECTION, MODEL
from export.graphs.graph_template import Templates, fill_template
from export.graphs.template_inputs import ParameterValues
from model.spec import Normalization

_LEAST_SHARED = 256  # bytes of a weight; the reference to a smaller one takes about as much

_Places = Mapping[bytes, int]  # of weights in a file: by their sha256, the byte that they begin at


def write_graphs(folder: Path, templates: Templates, parameters: ParameterValues, normalization: Normalization) -> None:
    """Write both graphs of `parameters` into `folder`. Raises MisfitParameters."""
    graph = fill_template(templates.served, parameters, normalization)
    onnx.save(graph, folder / MODEL)
    places = _weight_places(graph, folder / MODEL)
    del graph  # it holds all weights, as the next one does until it shares them
    graph = fill_template(templates.inspection, parameters, normalization)
    _share_weights(graph, places)
    onnx.save(graph, folder / INSPECTION)


def _weight_places(graph: onnx.ModelProto, path: Path) -> _Places:
    """Where the weights of `graph` lie in the file at `path`, which was written from it and has them in its order."""
    places, start = {}, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for tensor in graph.graph.initializer:
            start = content.find(tensor.raw_data, start)
            places[hashlib.sha256(tensor.raw_data).digest()] = start
            start += len(tensor.raw_data)
    return places


def _share_weights(graph: onnx.ModelProto, places: _Places) -> None:
    """Let `graph` refer to those of its weights that are, byte for byte, at `places` in the served graph's file."""
    for tensor in graph.graph.initializer:
        size = len(tensor.raw_data)
        place = places.get(hashlib.sha256(tensor.raw_data).digest())
        if size >= _LEAST_SHARED and place is not None:
            set_external_data(tensor, MODEL, place, size)
            tensor.ClearField("raw_data")
