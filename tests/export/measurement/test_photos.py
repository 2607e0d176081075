import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.measurement.photos import (
    SHIPPED,
    SHIPPED_MEASURING,
    NoPhotos,
    crops,
    measuring_set,
    photo_sets,
    photographs,
    views,
)
from model.spec import Preprocessing
from tests.support.pictures import scene

STEPS = Preprocessing(256, 224)
PHOTOS = photographs(SHIPPED)


def test_views_are_many_different_ones_and_the_same_each_time() -> None:
    found = views(STEPS, 20, PHOTOS)
    assert found.shape == (20, 224, 224, 3)
    assert len({view.tobytes() for view in found}) == 20
    np.testing.assert_array_equal(found, views(STEPS, 20, PHOTOS))


def test_the_first_view_of_a_photograph_is_what_the_service_sees() -> None:
    path = sorted(SHIPPED.iterdir())[0]
    with Image.open(path) as image:  # 512 x 512
        whole = image.resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
    difference = views(STEPS, 1, PHOTOS[:1])[0].astype(int) - np.asarray(whole).astype(int)
    assert np.abs(difference).mean() < 1


def test_fewer_views_than_photographs_are_of_some_from_everywhere() -> None:
    np.testing.assert_array_equal(views(STEPS, 4, PHOTOS), views(STEPS, 8, PHOTOS)[::2])
    np.testing.assert_array_equal(crops(STEPS, 2, PHOTOS), crops(STEPS, 2, [PHOTOS[0], PHOTOS[4]]))


def test_shipped_photographs_are_measured_on_others_than_were_calibrated_on() -> None:
    sets = photo_sets(None, None)
    assert (sets.calibrating.source, sets.measuring.source) == ("shipped", "shipped")
    assert (sets.calibrating.files, sets.measuring.files) == (PHOTOS, photographs(SHIPPED_MEASURING))
    assert len(PHOTOS) >= 8
    assert len(sets.measuring.files) >= 8
    assert not {path.read_bytes() for path in PHOTOS} & {path.read_bytes() for path in sets.measuring.files}


def names(files: list[Path]) -> str:
    return " ".join(path.stem for path in files)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(5):
        scene(60 + number, 50).save(folder / f"{number}.jpg")
    return folder


def test_a_folder_for_both_is_divided(mine: Path) -> None:
    for sets in (photo_sets(mine, None), photo_sets(mine, mine), photo_sets(mine, mine / ".." / "mine")):
        assert (names(sets.calibrating.files), names(sets.measuring.files)) == ("0 2 4", "1 3")
        assert (sets.calibrating.source, sets.measuring.source) == (str(mine), str(mine))


def test_a_single_photograph_to_calibrate_on_is_measured_on_the_shipped_ones(mine: Path) -> None:
    for path in sorted(mine.iterdir())[1:]:
        path.unlink()
    sets = photo_sets(mine, None)
    assert names(sets.calibrating.files) == "0"
    assert sets.measuring == photo_sets(None, None).measuring


def test_photographs_to_measure_on_are_as_given_but_for_those_calibrated_on(mine: Path) -> None:
    sets = photo_sets(None, mine)
    assert (sets.calibrating.source, names(sets.measuring.files)) == ("shipped", "0 1 2 3 4")
    (mine / "part").mkdir()
    (mine / "1.jpg").rename(mine / "part" / "1.jpg")
    sets = photo_sets(mine / "part", mine)
    assert (names(sets.calibrating.files), names(sets.measuring.files)) == ("1", "0 2 3 4")
    (mine / "2.jpg").rename(mine / "part" / "2.jpg")
    with pytest.raises(NoPhotos, match=r"at least 2 photographs that 8 bits are not calibrated on; .*part has 0"):
        photo_sets(mine, mine / "part")


def test_copies_of_what_is_calibrated_on_are_not_measured_on(mine: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    shutil.copytree(mine, others)
    (others / "0.jpg").rename(others / "another name.jpg")
    scene(90, 50).save(others / "new.jpg")
    scene(91, 50).save(others / "newer.jpg")
    assert names(photo_sets(mine, others).measuring.files) == "new newer"
    shutil.copy(PHOTOS[0], others)
    assert PHOTOS[0].stem not in names(photo_sets(None, others).measuring.files)
    assert PHOTOS[0].stem in names(measuring_set(others).files)  # without 8 bits


def test_one_photograph_says_nothing_of_others(mine: Path) -> None:
    for path in sorted(mine.iterdir())[1:]:
        path.unlink()
    with pytest.raises(NoPhotos, match=r"at least 2 photographs; .*mine has 1"):
        measuring_set(mine)
    with pytest.raises(NoPhotos, match=r"mine is to be divided, and has 1 photographs; at least four are needed"):
        photo_sets(mine, mine)


def test_the_manifest_tells_which_photographs_were_used(mine: Path) -> None:
    before = photo_sets(None, mine).measuring.for_manifest(5)
    assert before.source == str(mine)
    (mine / "3.jpg").write_bytes((mine / "0.jpg").read_bytes())
    assert photo_sets(None, mine).measuring.for_manifest(5) != before
    assert photo_sets(None, mine).measuring.for_manifest(1) != before  # only the first is seen


def test_calibration_and_measurement_have_different_views() -> None:
    calibrated, measured = crops(STEPS, 24, PHOTOS), views(STEPS, 48, PHOTOS)
    assert len({view.tobytes() for view in (*calibrated, *measured)}) == 24 + 48


def test_photographs_of_a_user_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "n01440764").mkdir()
    scene(80, 60).save(tmp_path / "n01440764" / "a.JPEG")
    scene(60, 90).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no photograph")
    assert views(STEPS, 5, photographs(tmp_path)).shape == (5, 224, 224, 3)


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoPhotos, match="no photographs"):
        photographs(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(NoPhotos, match=r"broken.jpg cannot be read"):
        views(STEPS, 5, photographs(tmp_path))


def test_the_shipped_photographs_are_named_with_their_sources() -> None:
    notice = (Path(__file__).parents[3] / "NOTICE").read_text()
    for path in (*SHIPPED.iterdir(), *SHIPPED_MEASURING.iterdir()):
        assert path.stem in notice


def test_an_archive_instead_of_a_folder_is_told_that_a_folder_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_bytes(b"PK")
    with pytest.raises(NoPhotos, match=r"mine\.zip is a file, and photographs are read from a folder: unpack it"):
        photographs(tmp_path / "mine.zip")
