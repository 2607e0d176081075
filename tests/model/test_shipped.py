"""The weights that ship: that they are what their card, labels and recipe say, and know what they learnt."""

import hashlib
import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from app.decoding.image_decoding import decode
from export.graphs.served_network import Served
from export.measurement.photos import SHIPPED as PHOTOS
from model.labels import IMAGENET, LabelEntry, labels_beside, labels_for, recipe_beside
from model.loaded_network import network_with
from model.spec import RESOLUTIONS, VARIANTS, Preprocessing, patch_grids
from model.weights import SHIPPED_FOLDER, find_weights

VARIANT = VARIANTS["crossvit_9_dagger"]
WEIGHTS = SHIPPED_FOLDER / f"{VARIANT.name}.safetensors"


@cache
def labels() -> list[LabelEntry]:
    beside = labels_beside(WEIGHTS)
    assert beside is not None
    found: list[LabelEntry] = json.loads(beside.read_text(encoding="utf-8"))
    assert [label["label"] for label in labels_for(beside, 200)] == [label["label"] for label in found]
    return found


def test_shipped_weights_are_small_and_in_half_precision() -> None:
    assert WEIGHTS.stat().st_size < 20e6
    tensors = load_file(WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    sides = [round((tensors[f"pos_embed.{branch}"].shape[1] - 1) ** 0.5) for branch in (0, 1)]
    assert tuple(sides) == patch_grids(RESOLUTIONS[0])


def test_shipped_classes_are_imagenets() -> None:
    imagenet = json.loads(IMAGENET.read_text(encoding="utf-8"))
    assert sorted(label["wnid"] or "" for label in labels()) == [label["wnid"] for label in labels()]
    for label in labels():
        known = imagenet[label["imagenet_index"]]
        assert (label["wnid"], label["label"]) == (known["wnid"], known["label"])


def test_the_model_card_and_the_recipe_describe_the_shipped_weights() -> None:
    card = (SHIPPED_FOLDER / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card
    assert "@" not in card  # nothing left open
    recipe = json.loads(recipe_beside(WEIGHTS).read_text(encoding="utf-8"))
    assert recipe["recipe"]["variant"] == VARIANT.name
    assert recipe["data"]["classes"] == 200


@pytest.mark.parametrize(("photo", "name"), [("coffee", "espresso"), ("rocket", "projectile")])
def test_shipped_weights_recognise_a_photograph(photo: str, name: str) -> None:
    served = Served(network_with(find_weights("shipped", VARIANT, print), VARIANT))
    pixels = decode((PHOTOS / f"{photo}.jpg").read_bytes(), Preprocessing(256, 224), 10**8)
    with torch.inference_mode():
        best = served(torch.tensor(pixels)[None])[0][0].topk(2).indices
    assert name in [labels()[index]["label"] for index in best]
