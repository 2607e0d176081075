"""Scripts that the documentation tells to run. docs/examples/digits.py is run by test_transfer.py."""

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from model.dataset import Dataset

SCRIPT = Path(__file__).parents[1] / "docs" / "examples" / "tiny_imagenet.py"


def test_tiny_imagenet_becomes_folders_named_for_their_class(tmp_path: Path) -> None:
    """The archive is a stand-in of the same layout."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (9, 90, 200)).save(buffer, "JPEG")
    wnids = ("n01443537", "n01629819")
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        annotations = ""
        for number, wnid in enumerate(wnids):
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_0.JPEG", buffer.getvalue())
            archive.writestr(f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt", "")
            archive.writestr(f"tiny-imagenet-200/val/images/val_{number}.JPEG", buffer.getvalue())
            annotations += f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", annotations)
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", buffer.getvalue())
    subprocess.run([sys.executable, str(SCRIPT), "tiny-imagenet-200.zip"], cwd=tmp_path, check=True)
    for name, images in (("train", {"0.webp"}), ("val", {"val_0.JPEG", "val_1.JPEG"})):
        data = Dataset([tmp_path / f"{name}.zip"])
        assert data.categories == list(wnids)
        assert {Path(item.name).name for item in data.items} == images
        assert len(data) == 2
