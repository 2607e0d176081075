import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from model.training.augment import OPERATIONS, Mixture, erase, mix, rand_augment, rectangles
from tests.model.training.made import stripes

_WHATEVER_THE_STRENGTH = 3  # autocontrast, equalising and inverting


@pytest.fixture
def images() -> Tensor:
    made = [torch.tensor(list(stripes(n % 3, n).tobytes())).view(32, 32, 3) for n in range(24)]
    return torch.stack(made).permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize("number", range(len(OPERATIONS)))
def test_operations_change_images_within_their_range(images: Tensor, number: int) -> None:
    torch.manual_seed(0)
    changed = OPERATIONS[number](images, torch.full((24,), 0.9)).clamp(0, 1)
    assert changed.shape == images.shape
    assert changed.isfinite().all()
    assert ((changed - images).abs().mean(dim=(1, 2, 3)) > 0.002).all()


@pytest.mark.parametrize("number", range(_WHATEVER_THE_STRENGTH, len(OPERATIONS)))
def test_operations_change_more_with_more_strength(images: Tensor, number: int) -> None:
    changes = []
    for strength in (0.05, 0.95):
        torch.manual_seed(0)
        changed = OPERATIONS[number](images, torch.full((24,), strength)).clamp(0, 1)
        changes.append((changed - images).abs().mean())
    assert changes[0] < changes[1]


def pillows(image: Image.Image) -> list[Image.Image]:
    """What Pillow makes of an image at a strength of 0.5, of operations that have no direction."""
    pixels = np.asarray(image).astype(int)
    added = Image.fromarray(np.where(pixels < 128, np.minimum(pixels + 55, 255), pixels).astype(np.uint8))
    return [
        *(ImageOps.autocontrast(image), ImageOps.equalize(image), ImageOps.invert(image)),
        *(ImageOps.posterize(image, 2), ImageOps.solarize(image, 128), added),
    ]


def enhanced(image: Image.Image) -> list[Image.Image]:
    """The same of those with a direction, here upwards."""
    kinds = (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness)
    return [kind(image).enhance(1.45) for kind in kinds]


def test_colours_change_as_pillow_changes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    image = stripes(2, 0, (64, 48)).filter(ImageFilter.BoxBlur(1))
    batch = torch.tensor(np.asarray(image)).permute(2, 0, 1).unsqueeze(0) / 255
    monkeypatch.setattr("model.training.augment._signed", lambda strength: strength)
    for number, theirs in zip((0, 1, 2, 4, 5, 6, 7, 8, 9, 10), pillows(image) + enhanced(image), strict=True):
        ours = OPERATIONS[number](batch, torch.tensor([0.5])).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255
        difference = abs(ours - np.asarray(theirs).astype(float))
        assert difference.mean() < 1.5, number
        assert np.quantile(difference, 0.99) < 5, number


def test_each_image_has_operations_of_its_own_and_a_quarter_none(images: Tensor) -> None:
    torch.manual_seed(0)
    many = images[:1].expand(400, -1, -1, -1)
    changed = rand_augment(many, 9)
    untouched = (changed == many).flatten(1).all(dim=1).float().mean()
    assert 0.18 < untouched < 0.34
    assert len({image.numpy().tobytes() for image in changed}) > 200
    torch.manual_seed(0)
    assert torch.equal(changed, rand_augment(many, 9))


def test_erasing_covers_a_share_of_the_images_with_noise() -> None:
    torch.manual_seed(0)
    erased = erase(torch.zeros(1000, 3, 32, 32), 0.25) != 0
    covered = erased.float().mean(dim=(1, 2, 3))
    touched = covered > 0
    assert 0.2 < touched.float().mean() < 0.3
    assert covered.max() <= 0.42  # a third, and what reaches into a pixel
    assert 0.12 < covered[touched].mean() < 0.22


def test_rectangles_have_the_requested_lengths_at_any_place() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([[0.5, 0.25]]).expand(200, 2)
    inside = rectangles(torch.rand(200, 2) * (1 - lengths), lengths, 32, 64)
    assert inside.shape == (200, 1, 32, 64)
    assert set(inside.any(dim=3).sum(dim=2).flatten().tolist()) <= {16}
    assert set(inside.any(dim=2).sum(dim=2).flatten().tolist()) <= {16}
    assert inside.any(dim=0).float().mean() > 0.95  # corners are seldom met


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0), (0.8, 1.0)])
def test_the_loss_of_a_mixture_is_that_of_soft_targets(mixup: float, cutmix: float) -> None:
    torch.manual_seed(1)
    images, targets, logits = torch.rand(6, 3, 32, 32), torch.arange(6) % 4, torch.randn(6, 4)
    mixture = mix(images, targets, mixup, cutmix)
    hard = F.one_hot(targets, 4).float()
    assert sorted(mixture.targets[1].tolist()) == sorted(targets.tolist())
    soft = mixture.lam * hard + (1 - mixture.lam) * F.one_hot(mixture.targets[1], 4)
    expected = F.cross_entropy(logits, soft, label_smoothing=0.1, reduction="sum")
    assert mixture.loss(logits, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0)])
def test_the_lambda_of_a_mixture_is_its_share_of_pixels(mixup: float, cutmix: float) -> None:
    torch.manual_seed(0)
    targets = torch.arange(4)
    for _ in range(20):
        mixture = mix(targets.float().view(4, 1, 1, 1).expand(4, 3, 32, 32), targets, mixup, cutmix)
        expected = mixture.lam * targets + (1 - mixture.lam) * mixture.targets[1]
        assert mixture.images.mean(dim=(1, 2, 3)).tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_cutmix_pastes_as_much_as_the_paper_does() -> None:
    """With a centre anywhere and what lies outside cut off, 1 - (1/2 - 1/5 + 1/48) is left on average, not half."""
    torch.manual_seed(0)
    images, targets = torch.zeros(2, 3, 32, 32), torch.arange(2)
    mean = sum(mix(images, targets, 0, 1.0).lam for _ in range(2000)) / 2000
    assert mean == pytest.approx(0.679, abs=0.02)


def test_repeats_of_an_image_are_mixed_with_different_images() -> None:
    torch.manual_seed(0)
    targets = torch.arange(20).repeat_interleave(3)
    partners = mix(torch.zeros(60, 3, 8, 8), targets, 0.8, 0).targets[1].view(20, 3)
    assert sum(len(set(three)) > 1 for three in partners.tolist()) >= 17


def test_without_mixup_and_cutmix_images_are_unchanged() -> None:
    images, targets = torch.rand(2, 3, 8, 8), torch.arange(2)
    mixture = mix(images, targets, 0, 0)
    assert mixture == Mixture(images, (targets, targets), 1.0)
