import pytest
import torch
import torch.nn.functional as F

from model.bicubic import resize


@pytest.mark.parametrize(
    ("n_in", "n_out"), [(224, 240), (240, 224), (408, 384), (480, 504), (14, 30), (20, 42), (34, 20)]
)
def test_resize_is_pytorchs_bicubic(n_in: int, n_out: int) -> None:
    maps = torch.randn(2, 3, n_in, n_in, dtype=torch.float64)
    expected = F.interpolate(maps, size=(n_out, n_out), mode="bicubic", align_corners=False, antialias=False)
    torch.testing.assert_close(resize(maps, n_out), expected, atol=1e-12, rtol=0)


def test_rows_and_columns_are_not_confused() -> None:
    maps = torch.arange(16.0).view(1, 4, 4)
    assert torch.equal(resize(maps.transpose(1, 2), 8), resize(maps, 8).transpose(1, 2))
    assert not torch.equal(resize(maps, 8), resize(maps, 8).transpose(1, 2))


@pytest.mark.parametrize("side", [14, 20, 224, 480])
def test_at_its_own_size_every_number_stays(side: int) -> None:
    maps = torch.randn(2, side, side)
    assert torch.equal(resize(maps, side), maps)
