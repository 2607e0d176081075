"""config.pbtxt, the configuration of a Triton model: protobuf text, written for people too.

Source of the fields: `ModelConfig` in model_config.proto of github.com/triton-inference-server/common.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bundle.tensors import INPUT, OUTPUTS

TRITON_LABELS = "labels.txt"
MARK = "# Written by export/to_triton.py"

MAX_QUEUE_BATCHES = 8  # more requests are refused at once
MAX_QUEUE_SECONDS = 10  # clients may set less


@dataclass(frozen=True)
class Config:
    """The configuration of a Triton model.

    Attributes:
        name: of the model.
        backend: "onnxruntime" or "tensorrt".
        side: of the images, in pixels.
        classes: the number of classes.
        max_batch: the largest batch.
        batch_sizes: run once at start. With `least_sizes` those of the plan's optimisation profiles, in their order.
        dynamic: whether Triton may put requests together.
        delay_us: how long a request may wait for others.
        device: "gpu" or "cpu".
        instances: of the model, on each GPU.
        least_sizes: profile i takes from `least_sizes[i]` to `batch_sizes[i]` images.
        plans: files by compute capability, where there are several.
        notes: for people and clients that read the configuration.
    """

    name: str
    backend: str
    side: int
    classes: int
    max_batch: int
    batch_sizes: tuple[int, ...]
    dynamic: bool = True
    delay_us: int = 0
    device: str = "gpu"
    instances: int = 1
    least_sizes: tuple[int, ...] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def config_text(config: Config) -> str:
    """The content of config.pbtxt."""
    sections = [_head(config), _tensors(config), _instances(config)]
    if config.dynamic:
        sections.append(_batching(config))
    if config.least_sizes:
        sections.append(_cuda_graphs(config))
    sections += [_warm_up(config), _notes(config)]
    return "\n".join(sections)


def _head(config: Config) -> str:
    lines = [
        f"{MARK}: run it again instead of editing, it replaces this file.",
        f"name: {_quoted(config.name)}",
        f"backend: {_quoted(config.backend)}",
        f"max_batch_size: {config.max_batch}",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if config.plans:
        lines.append("# A plan runs on the GPU it was built for; which one is decided by compute capability.")
    for capability, name in sorted(config.plans.items()):
        lines.append(f"cc_model_filenames {{ key: {_quoted(capability)} value: {_quoted(name)} }}")
    return "\n".join(lines) + "\n"


def _tensors(config: Config) -> str:
    image = f"name: {_quoted(INPUT)} data_type: TYPE_UINT8 dims: {_image(config)}"
    logits = [f"name: {_quoted(name)} data_type: TYPE_FP32 dims: [ {config.classes} ]" for name in OUTPUTS]
    logits[0] += f" label_filename: {_quoted(TRITON_LABELS)}"
    return (
        "# RGB pixels as they were decoded: the graph normalises them. The batch comes before these dimensions.\n"
        + _listed("input", [image])
        + _listed("output", logits)
    )


def _instances(config: Config) -> str:
    group = f"count: {config.instances} kind: KIND_{config.device.upper()}"
    if config.least_sizes:
        names = ", ".join(_quoted(str(index)) for index in range(len(config.batch_sizes)))
        group += f" profile: [ {names} ]"
    return _listed("instance_group", [group])


def _batching(config: Config) -> str:
    # Not 1: of five images that wait Triton would then take one, the largest preferred batch that can be had.
    preferred = [size for size in config.batch_sizes if size > 1] if config.least_sizes else []
    return (
        "dynamic_batching {\n"
        + (f"  preferred_batch_size: {_numbers(preferred)}\n" if preferred else "")
        + f"  max_queue_delay_microseconds: {config.delay_us}\n"
        "  default_queue_policy {\n"
        f"    max_queue_size: {MAX_QUEUE_BATCHES * config.max_batch}\n"
        f"    default_timeout_microseconds: {MAX_QUEUE_SECONDS * 1_000_000}\n"
        "    timeout_action: REJECT\n"
        "    allow_timeout_override: true\n"
        "  }\n"
        "}\n"
    )


def _cuda_graphs(config: Config) -> str:
    image = f"input {{ key: {_quoted(INPUT)} value {{ dim: {_image(config)} }} }}"
    graphs = ""
    for least, size in zip(config.least_sizes, config.batch_sizes, strict=True):
        # Down to the lower bound Triton runs fewer images in the same graph, which is padding.
        bound = f" graph_lower_bound {{ batch_size: {least} {image} }}" if least < size else ""
        graphs += f"    graph_spec {{ batch_size: {size} {image}{bound} }}\n"
    return f"optimization {{\n  cuda {{\n    graphs: true\n{graphs}  }}\n}}\n"


def _warm_up(config: Config) -> str:
    image = f"value {{ data_type: TYPE_UINT8 dims: {_image(config)} random_data: true }}"
    return _listed(
        "model_warmup",
        (
            f"name: {_quoted(f'{size} at once')} batch_size: {size} count: {3 if config.device == 'gpu' else 1} "
            f"inputs {{ key: {_quoted(INPUT)} {image} }}"
            for size in config.batch_sizes
        ),
    )


def _notes(config: Config) -> str:
    notes = (f"key: {_quoted(key)} value {{ string_value: {_quoted(value)} }}" for key, value in config.notes.items())
    return "# For people and clients; the backends do not read these.\n" + _listed("parameters", notes)


def _listed(name: str, entries: Iterable[str]) -> str:
    return f"{name} [\n" + ",\n".join(f"  {{ {entry} }}" for entry in entries) + "\n]\n"


def _image(config: Config) -> str:
    return _numbers((config.side, config.side, 3))


def _numbers(values: Iterable[int]) -> str:
    return f"[ {', '.join(map(str, values))} ]"


def _quoted(value: str) -> str:
    return json.dumps(value)
