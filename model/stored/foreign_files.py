"""Files that people take for checkpoints, called what they are, with the way to one.

Known by their first bytes or, for archives, by what is in them; the name of a file counts for nothing.
"""

from collections.abc import Sequence
from pathlib import Path

HEAD_BYTES = 512  # bytes that `other_kind` wants
_SHOWN_LETTERS = 40  # of a text that a message shows

_UNPACK = "unpack it, and give the checkpoint within"
_PYTORCH = "save its weights in PyTorch: torch.save(model.state_dict(), path)"
_WEIGHTS = "give the weights of the network"
_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch it: git lfs pull"),
    (b"\x1f\x8b", "compressed (gzip)", _UNPACK),
    (b"BZh", "compressed (bzip2)", _UNPACK),
    (b"\xfd7zXZ\0", "compressed (xz)", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed (lz4)", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "an archive (7z)", _UNPACK),
    (b"Rar!", "an archive (rar)", _UNPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", _PYTORCH),
    (b"GGUF", "a GGUF file", _PYTORCH),
    (b"\x93NUMPY", "a NumPy array", _PYTORCH),
    (b"\x89PNG", "an image", _WEIGHTS),
    (b"\xff\xd8\xff", "an image", _WEIGHTS),
    (b"GIF8", "an image", _WEIGHTS),
    (b"II*\0", "an image", _WEIGHTS),
    (b"MM\0*", "an image", _WEIGHTS),
    (b"RIFF", "an image, sound or film (RIFF)", _WEIGHTS),
    (b"%PDF", "a PDF document", _WEIGHTS),
    (b"PAR1", "a table (Parquet)", _WEIGHTS),
    (b"ARROW1", "a table (Arrow)", _WEIGHTS),
    (b"SQLite format 3\0", "a database (SQLite)", _WEIGHTS),
    (b"ftrt", "a TensorRT plan", _PYTORCH),
    (b"\x7fELF", "a program", _WEIGHTS),
)
_TEXTS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"<",
        "XML or HTML, such as a web page, not a checkpoint",
        "download the file itself; a link may need a login or /resolve/",
    ),
    (b'{"error', "an error message of a server, not a checkpoint", "download the file again"),
    (b"{", "JSON text", "give the checkpoint itself, such as model.safetensors"),
)


def other_kind(path: Path, head: bytes) -> str | None:
    """What the file at `path`, which begins with `head`, is instead of a checkpoint; None if it may be one."""
    if not head:
        return "is damaged: the file is empty"
    if head[257:262] == b"ustar":
        return _sentence("a tar archive", _UNPACK)
    if head[4:8] == b"ftyp":
        return _sentence("an image or film (such as AVIF, HEIC, MP4)", _WEIGHTS)
    if head[4:8] == b"TFL3":
        return _sentence("a TensorFlow Lite model", _PYTORCH)
    for start, what, advice in _STARTS:
        if head.startswith(start):
            return _sentence(what, advice)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"{" and b'"weight_map"' in head:
        return _index()
    if text[:1] == b"<" and b"<net " in head:
        return _sentence("an OpenVINO model", _PYTORCH)
    for start, what, advice in _TEXTS:
        if text.startswith(start):
            return _sentence(what, advice)
    if head[:1] == b"\x08" and (b"pytorch" in head or b"onnx" in head or b"tf2" in head or path.suffix == ".onnx"):
        return _sentence("an ONNX graph", "the exporter makes one from a checkpoint: " + _PYTORCH)
    if head[:1] in (b"\x08", b"\n") and beginning_of_text(head) is None:  # no pickle begins so
        return _sentence("a protocol buffer, as ONNX, Core ML and TensorFlow write them", _PYTORCH)
    if path.suffix == ".msgpack" or (0x80 < head[0] < 0x90 and head[1:2] >= b"\xa1") or head[:1] == b"\xde":
        return _sentence("a MessagePack file, as Flax writes them", _PYTORCH)
    return None


def beginning_of_text(head: bytes) -> str | None:
    """The first line with letters of what begins with `head`, at most 40 letters; None if that is no text."""
    try:
        text = head.decode("utf-8-sig", "strict" if len(head) < HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    if not all(letter.isprintable() or letter in "\t\n\r\f" for letter in text):
        return None
    lines = [line.strip() for line in text.splitlines()]
    return next((line[:_SHOWN_LETTERS] for line in lines if line), "")


def other_archive(names: Sequence[str]) -> str | None:
    """What a zip archive of files called `names` is instead of a checkpoint; None if it may be one."""
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return _sentence(
            "a TorchScript archive", "save its weights: torch.save(torch.jit.load(path).state_dict(), other)"
        )
    if any("serialized_exported_program" in name or name.endswith("models/model.json") for name in names):
        return _sentence(
            "a program of torch.export", "save its weights: torch.save(torch.export.load(path).state_dict, other)"
        )
    if "data.pkl" in inner:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return _sentence("NumPy arrays (npz)", _PYTORCH)
    if "model.weights.h5" in names:
        return _sentence("a Keras model", _PYTORCH)
    return _sentence("a zip archive without a checkpoint's data.pkl", _UNPACK)


def folder_kind(folder: Path) -> str:
    """What a folder is that has no single checkpoint, or several."""
    names = sorted(path.name for path in folder.iterdir())
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return _sentence(
            "a distributed checkpoint (DCP)",
            "make one file of it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt",
        )
    if "zero_to_fp32.py" in names:
        return _sentence("a DeepSpeed checkpoint", "make one file of it: python zero_to_fp32.py . model.pt")
    if any(name.endswith(".index.json") for name in names):
        return _index()
    if "saved_model.pb" in names or any(name.endswith(".index") for name in names):
        return _sentence("a TensorFlow checkpoint", _PYTORCH)
    if "_CHECKPOINT_METADATA" in names or "_METADATA" in names:
        return _sentence("an Orbax checkpoint of JAX", _PYTORCH)
    if "adapter_config.json" in names:
        return _sentence("an adapter (LoRA), not the network", "merge it into the network and save that")
    if {"manifest.json", "model.onnx"} <= set(names):
        return _sentence("a bundle, which was exported", "give the checkpoint that it was made from")
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "nothing"
    return f"is a folder that holds {shown}: give one checkpoint in it"


def _index() -> str:
    return _sentence(
        "the index of a checkpoint in several files", 'save it in one: save_pretrained(folder, max_shard_size="50GB")'
    )


def _sentence(what: str, advice: str) -> str:
    return f"is {what}: {advice}"
