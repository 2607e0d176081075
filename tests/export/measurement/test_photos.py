from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.measurement.photos import SHIPPED, NoPhotos, crops, views
from model.spec import Preprocessing
from tests.support.pictures import scene

STEPS = Preprocessing(256, 224)


def test_views_are_many_different_ones_and_the_same_each_time() -> None:
    found = views(STEPS, 20)
    assert found.shape == (20, 224, 224, 3)
    assert len({view.tobytes() for view in found}) == 20
    np.testing.assert_array_equal(found, views(STEPS, 20))


def test_the_first_view_of_a_photograph_is_what_the_service_sees() -> None:
    path = sorted(SHIPPED.iterdir())[0]
    with Image.open(path) as image:  # 512 x 512
        whole = image.resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
    difference = views(STEPS, 1)[0].astype(int) - np.asarray(whole).astype(int)
    assert np.abs(difference).mean() < 1


def test_fewer_views_than_photographs_take_the_first() -> None:
    np.testing.assert_array_equal(views(STEPS, 3), views(STEPS, 8)[:3])


def test_calibration_and_measurement_use_different_photographs() -> None:
    calibrated, measured = crops(STEPS, 24), views(STEPS, 48)
    assert len({view.tobytes() for view in (*calibrated, *measured)}) == 24 + 48


def test_photographs_of_a_user_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    scene(80, 60).save(tmp_path / "n01440764" / "a.JPEG")
    scene(60, 90).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no photograph")
    assert views(STEPS, 5, tmp_path).shape == (5, 224, 224, 3)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoPhotos, match="no photographs"):
        views(STEPS, 5, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(NoPhotos, match=r"broken.jpg cannot be read"):
        views(STEPS, 5, tmp_path)


def test_the_shipped_photographs_are_named_with_their_sources() -> None:
    notice = (Path(__file__).parents[3] / "NOTICE").read_text()
    for path in SHIPPED.iterdir():
        assert path.stem in notice


def test_an_archive_instead_of_a_folder_is_told_that_a_folder_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_bytes(b"PK")
    with pytest.raises(NoPhotos, match=r"mine\.zip is a file, and photographs are read from a folder: unpack it"):
        views(STEPS, 5, tmp_path / "mine.zip")
