"""The protocol's messages: what protoc makes of open_inference.proto, with the names and numbers of a stock client."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2

from app.errors import BadInference
from app.grpc_api.inference_messages import DESCRIPTORS, INFER_REQUEST_MESSAGE, POOL, PROTO_FOLDER, parse_message

STOCK = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def test_the_descriptors_are_what_protoc_makes_of_the_file(tmp_path: Path) -> None:
    made = tmp_path / "made.binpb"
    command = ["protoc", f"-I{PROTO_FOLDER}", f"--descriptor_set_out={made}", "open_inference.proto"]
    assert protoc.main(command) == 0
    found = FileDescriptorSet.FromString(made.read_bytes())
    assert found == FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()), "run `make protocol`"


def test_every_method_is_the_stock_clients() -> None:
    service = POOL.FindServiceByName("inference.GRPCInferenceService")
    assert len(service.methods) == 12
    for method in service.methods:
        stock = STOCK.methods_by_name[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            stock.input_type.full_name,
            stock.output_type.full_name,
        )
        assert (method.client_streaming, method.server_streaming) == (stock.client_streaming, stock.server_streaming)


def test_every_field_and_value_has_the_stock_clients_number_and_type() -> None:
    own = POOL.FindFileByName("open_inference.proto")
    files = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)
    stock = {name: message for file in files for name, message in file.message_types_by_name.items()}
    for message in own.message_types_by_name.values():
        assert_same(message, stock[message.name])
    for enum in own.enum_types_by_name.values():
        assert_same_values(enum, model_config_pb2.DESCRIPTOR.enum_types_by_name[enum.name])


def assert_same(own: Any, stock: Any) -> None:
    for field in own.fields:
        other = stock.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        types = [found.message_type and found.message_type.full_name for found in (field, other)]
        assert types[0] == types[1]
        oneofs = [found.containing_oneof and found.containing_oneof.name for found in (field, other)]
        assert oneofs[0] == oneofs[1]
    for nested in own.nested_types:
        assert_same(nested, stock.nested_types_by_name[nested.name])
    for enum in own.enum_types:
        assert_same_values(enum, stock.enum_types_by_name[enum.name])


def assert_same_values(own: Any, stock: Any) -> None:
    assert {value.name: value.number for value in own.values} == {value.name: value.number for value in stock.values}


@pytest.mark.parametrize("raw", [b"\x0a\xff", b"\x0a\x01\xff", b"\x08", b"\xff" * 20])
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    with pytest.raises(BadInference, match=r"the message is no inference.ModelInferRequest"):
        parse_message(INFER_REQUEST_MESSAGE, raw)
