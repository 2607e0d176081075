"""The messages and the service of open_inference.proto.

They are made of the descriptors that protoc wrote, in a pool of their own: a stock client of the protocol in the same
process has messages of the same names in protobuf's default pool.
"""

from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from app.errors import BadInference

PROTO_FOLDER = Path(__file__).parent
DESCRIPTORS = PROTO_FOLDER / "open_inference.binpb"
INFERENCE_SERVICE = "inference.GRPCInferenceService"

POOL = DescriptorPool()
for _file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
    POOL.AddSerializedFile(_file.SerializeToString())


def message_type(name: str) -> Any:
    """The class of a message of the package `inference`."""
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


INFER_REQUEST_MESSAGE = message_type("ModelInferRequest")
INFER_RESPONSE_MESSAGE = message_type("ModelInferResponse")
STREAM_RESPONSE_MESSAGE = message_type("ModelStreamInferResponse")
TENSOR_CONTENTS = message_type("InferTensorContents")


def parse_message(kind: Any, raw: bytes) -> Any:
    """The message of type `kind` in `raw`. Raises BadInference."""
    try:
        return kind.FromString(raw)
    except Exception as err:  # protobuf's DecodeError, or what its implementations raise instead
        raise BadInference(f"the message is no {kind.DESCRIPTOR.full_name}") from err


def field_number(kind: Any, name: str) -> int:
    """The number of a field of the message type `kind`."""
    number: int = kind.DESCRIPTOR.fields_by_name[name].number
    return number
