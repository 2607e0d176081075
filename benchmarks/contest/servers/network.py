"""The network of the services in PyTorch."""

from pathlib import Path

import torch

from benchmarks.contest.pytorch import Pixels, peer_network, trained
from bundle.reader import open_bundle


def bundle_network(bundle: Path, weights: str) -> Pixels:
    """timm's module of the bundle's variant with `weights`, a file or "untrained", for pixels at 224."""
    variant = open_bundle(bundle).manifest.variant
    return Pixels(peer_network(trained(variant, weights), variant, 224)[0], torch.float32)
