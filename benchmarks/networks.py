"""The table of networks in docs/bundle.md, from bundles: `python -m benchmarks.networks BUNDLE…`."""

import json
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from bundle.file_names import MANIFEST
from model.crossvit import CrossViT
from model.spec import RESOLUTIONS, variant_named


def main() -> None:
    print(
        "| network | parameters, M (paper) | " + " | ".join(f"GMAC at {side} (paper)" for side in RESOLUTIONS), end=""
    )
    print(" | " + " | ".join(f"worst difference at {side}" for side in RESOLUTIONS) + " |")
    print("|---" * (2 + 2 * len(RESOLUTIONS)) + "|")
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m benchmarks.networks BUNDLE...")
    for folder in sys.argv[1:]:
        manifest = json.loads((Path(folder) / MANIFEST).read_text())
        variant = variant_named(manifest["variant"])
        with torch.device("meta"):
            network = CrossViT(variant)
        parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        cells = [variant.name, f"{parameters:.2f} ({variant.million_params:.2f})"]
        cells += [
            f"{gmacs(network, side):.2f} ({paper:.2f})" for side, paper in zip(RESOLUTIONS, variant.gmacs, strict=True)
        ]
        cells += [f"{manifest['parity']['worst'][str(side)]:.1e}" for side in RESOLUTIONS]
        print("| " + " | ".join(cells) + " |")


def gmacs(network: CrossViT, side: int) -> float:
    """Multiply-accumulates of one image in 1e9, all matrix products of the graph counted, those of resizing too."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops()) / 2e9


if __name__ == "__main__":
    main()
