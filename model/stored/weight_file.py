"""Opens a file of weights, whatever wrote it; a file of another kind is called what it is."""

import zipfile
from pathlib import Path

from safetensors import SafetensorError

from model.stored import foreign_files
from model.stored.bad_checkpoint import BadCheckpoint
from model.stored.pickled import Harmful, Malformed
from model.stored.safetensors_file import is_safetensors, read_safetensors
from model.stored.torch_file import read_torch_file


def read_weight_file(path: Path) -> object:
    """The content of the file: nested mappings with StoredTensors in them. Raises BadCheckpoint."""
    head = b""
    try:
        with path.open("rb") as file:
            head = file.read(foreign_files.HEAD_BYTES)
            if is_safetensors(head):
                return read_safetensors(path)
            if head[:4] == b"PK\3\4":
                with zipfile.ZipFile(file) as archive:
                    other = foreign_files.other_archive(archive.namelist())
            else:
                other = foreign_files.other_kind(path, head)
            if other is not None:
                raise BadCheckpoint(f"{path.name} {other}")
            file.seek(0)
            return read_torch_file(file)
    except OSError as err:
        raise BadCheckpoint(f"cannot read {path}: {err.strerror}") from err
    except SafetensorError as err:
        raise BadCheckpoint(f"{path.name} is a damaged safetensors file") from err
    except Harmful as err:
        raise BadCheckpoint(
            f"{path.name} holds more than tensors: unpickling it would call {err}, which was not done. "
            "Do not trust it. Save only the state_dict: torch.save(model.state_dict(), path)"
        ) from err
    except (Malformed, zipfile.BadZipFile) as err:
        if (text := foreign_files.beginning_of_text(head)) is not None:  # a pickle of protocol 0 is text too
            raise BadCheckpoint(f"{path.name} is text, not a checkpoint ({text!r}): give the file itself") from err
        raise BadCheckpoint(f"{path.name} is damaged, or neither a safetensors nor a PyTorch file: {err}") from err
