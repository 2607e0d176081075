"""Which files of a folder or of a repository are checkpoints, told by their names."""

from collections.abc import Iterable

WEIGHTS_FILE = "model.safetensors"
_NETWORKS = (WEIGHTS_FILE, "pytorch_model.bin")  # what timm, transformers and accelerate call a network's weights
CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")


def checkpoints_among(names: Iterable[str]) -> list[str]:
    """The file that Hugging Face's libraries name so if it is there, else all that may be a checkpoint."""
    found = sorted(name for name in names if name.endswith(CHECKPOINT_SUFFIXES))
    named = [name for name in _NETWORKS if name in found]
    return named[:1] or found
