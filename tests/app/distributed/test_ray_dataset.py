"""A user's own pipeline of Ray Data with the answers of a bulk run."""

from pathlib import Path

import pandas as pd
import pytest

from app.configuration.settings import Settings
from app.errors import BadParameter
from tests.support.pictures import JPEG, encoded, scene

pytest.importorskip("ray", reason="the extra ray is not installed: make test-all installs it")

import httpx
import ray
import ray.data

from app.distributed.ray_dataset import classify_dataset

pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("ray_here")]


@pytest.fixture
def settings() -> Settings:
    return Settings(engine="onnxruntime", precision="f32")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.jpg").write_bytes(encoded(scene(100, 80, number), "JPEG"))
    (folder / "cut.jpg").write_bytes(JPEG[:3000])
    (folder / "empty.jpg").write_bytes(b"")
    return folder


def test_rows_are_what_the_service_answers(
    bundle: Path, pictures: Path, settings: Settings, client: httpx.Client
) -> None:
    images = ray.data.read_binary_files(str(pictures), include_paths=True)
    options = {"top_k": 2, "embeddings": True, "batch_size": 4, "settings": settings}
    found = classify_dataset(images, bundle, workers=2, **options).take_all()  # type: ignore[arg-type]
    assert list(found[0]) == ["path", "index", "wnid", "label", "score", "predictions", "problem", "embedding"]
    assert len({row["path"] for row in found}) == len(found) == 14
    assert {Path(row["path"]).name: row["problem"]["reason"] for row in found if row["problem"] is not None} == {
        "cut.jpg": "BadImage",
        "empty.jpg": "NoImage",
    }
    for row in found:
        if row["problem"] is None:
            body = Path(row["path"]).read_bytes()
            expected = client.post("/classify", content=body, params={"top_k": 2}).json()["predictions"]
            assert [each["index"] for each in row["predictions"]] == [each["index"] for each in expected]
            assert row["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
            embedding = client.post("/embed", content=body).json()["embedding"]
            assert row["embedding"] == pytest.approx(embedding, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0; it has to be 1 to 50"),
        ({"workers": 0}, "workers is 0; it has to be 1 or more"),
        ({"cpus_per_worker": 0}, "cpus_per_worker is 0; it has to be more than 0"),
        ({"batch_size": 0}, "batch_size is 0; it has to be 1 or more"),
        ({"resolution": 225}, "resolution 225 is not served"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(
    bundle: Path, settings: Settings, options: dict[str, int], message: str
) -> None:
    images = ray.data.from_items([{"bytes": JPEG}])
    with pytest.raises(ValueError, match=message):
        classify_dataset(images, bundle, settings=settings, **options)  # type: ignore[arg-type]


def test_a_pool_that_would_take_every_cpu_is_refused(bundle: Path, settings: Settings) -> None:
    images = ray.data.from_items([{"bytes": JPEG}])
    with pytest.raises(BadParameter, match="4 workers with 1 CPUs each take 4 of the 4 CPUs of the cluster"):
        classify_dataset(images, bundle, workers=4, settings=settings)


def test_a_column_that_answers_would_replace_is_refused(bundle: Path, settings: Settings) -> None:
    images = ray.data.from_pandas(pd.DataFrame({"bytes": [JPEG], "label": ["tench"]}))
    with pytest.raises(Exception, match="the dataset has a column 'label' already"):
        classify_dataset(images, bundle, settings=settings).materialize()
