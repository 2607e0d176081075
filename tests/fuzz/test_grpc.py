"""Messages of the gRPC port of any shape: mutated requests, wrong types, and bytes that are no message."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.fuzz.cases import JPEG, cases
from tests.support.grpc_ports import GrpcServer, failure_of, file_request, infer_request, serving_grpc, stub_of
from tests.support.processes import resident_mb

INFER = "/inference.GRPCInferenceService/ModelInfer"
METHODS = [method.name for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
DEFECTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
BY_GRPC_ITSELF = {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED}  # no such method, too long
MOST_GROWTH_MB = 80


@pytest.fixture(scope="module")
def port(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    options = ["--bundle", str(bundle), "--engine", "null", "--decoders", "2", "--max-body-bytes", "1000000"]
    log = tmp_path_factory.mktemp("port") / "log"
    with serving_grpc(log, *options, "--body-seconds", "2") as server:
        server.http.wait_until_ready()
        with stub_of(server.address) as stub:  # the process of the inspection graph takes memory from now on
            request = file_request([JPEG])
            request.outputs.add(name="embedding")
            stub.ModelInfer(request)
        yield server


@pytest.fixture(scope="module")
def channel(port: GrpcServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(port.address) as channel:
        yield channel


@pytest.fixture(autouse=True)
def still_whole(port: GrpcServer) -> Iterator[None]:
    """Whatever it was sent, the next request is answered, nothing was a defect, and memory did not grow."""
    with stub_of(port.address) as stub:
        stub.ModelInfer(file_request([JPEG]))
        before = resident_mb(port.http.pid)
        yield
        assert stub.ModelInfer(file_request([JPEG])).outputs
    log = port.http.log_text()
    assert "Traceback" not in log
    assert '"INTERNAL"' not in log
    assert resident_mb(port.http.pid) < before + MOST_GROWTH_MB


def assert_answered_or_refused(call: Any, message: bytes) -> None:
    try:
        call(message, timeout=30)
    except grpc.RpcError as err:
        failure = failure_of(err)
        assert failure.code not in DEFECTS, failure
        assert failure.text
        assert failure.reason or failure.code in BY_GRPC_ITSELF, failure


texts = st.sampled_from(["image", "encoded", "logits", "UINT8", "BYTES", "", "x" * 1001, "ü\0"]) | st.text(max_size=5)
numbers = st.sampled_from([0, 1, -1, 3, 224, 225, 384, (1 << 31) - 1, -(1 << 63), (1 << 63) - 1])
parameter = st.one_of(
    st.builds(lambda value: service_pb2.InferParameter(int64_param=value), numbers),
    st.builds(lambda value: service_pb2.InferParameter(bool_param=value), st.booleans()),
    st.builds(lambda value: service_pb2.InferParameter(string_param=value), texts),
    st.builds(lambda value: service_pb2.InferParameter(double_param=value), st.floats()),
    st.just(service_pb2.InferParameter(uint64_param=(1 << 64) - 1)),
    st.just(service_pb2.InferParameter()),
)
names = ["resolution", "timeout", "classification", "binary_data", "binary_data_size", "shared_memory_region", "x"]
parameters = st.dictionaries(st.sampled_from(names), parameter, max_size=3)
contents = st.one_of(
    st.builds(
        lambda values: service_pb2.InferTensorContents(uint_contents=values),
        st.lists(st.integers(0, (1 << 32) - 1), max_size=4) | st.just([7] * 150528),
    ),
    st.builds(
        lambda values: service_pb2.InferTensorContents(bytes_contents=values),
        st.lists(st.binary(max_size=9) | st.just(JPEG), max_size=4),
    ),
    st.builds(lambda values: service_pb2.InferTensorContents(fp32_contents=values), st.lists(st.floats(width=32))),
    st.just(service_pb2.InferTensorContents()),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A right request with some of its fields replaced."""
    request = draw(st.sampled_from([infer_request(), infer_request(count=2), file_request([JPEG])]))
    request = type(request).FromString(request.SerializeToString())
    tensor = request.inputs[0]
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        change(draw, request, tensor)
    return bytes(request.SerializeToString())


def change_model(draw: st.DrawFn, request: Any, _: Any) -> None:
    request.model_name, request.model_version = draw(texts), draw(st.sampled_from(["", "1", "2"]))


def change_names(draw: st.DrawFn, request: Any, tensor: Any) -> None:
    tensor.name, tensor.datatype, request.id = draw(texts), draw(texts), draw(texts)


def change_shape(draw: st.DrawFn, _: Any, tensor: Any) -> None:
    tensor.shape[:] = draw(st.lists(numbers, max_size=9))


def change_parameters(draw: st.DrawFn, request: Any, tensor: Any) -> None:
    for place in draw(st.sampled_from([[request], [tensor], [request, tensor]])):
        for name, value in draw(parameters).items():
            place.parameters[name].CopyFrom(value)


def change_contents(draw: st.DrawFn, _: Any, tensor: Any) -> None:
    tensor.contents.CopyFrom(draw(contents))


def change_raw(draw: st.DrawFn, request: Any, _: Any) -> None:
    request.raw_input_contents[:] = draw(st.lists(st.binary(max_size=20) | st.just(bytes(150528)), max_size=3))


def change_outputs(draw: st.DrawFn, request: Any, _: Any) -> None:
    for _ in range(draw(st.integers(1, 9))):
        output = request.outputs.add(name=draw(texts | st.sampled_from(["logits", "embedding"])))
        for name, value in draw(parameters).items():
            output.parameters[name].CopyFrom(value)


def change_inputs(draw: st.DrawFn, request: Any, tensor: Any) -> None:
    for _ in range(draw(st.integers(0, 9))):
        request.inputs.add().CopyFrom(tensor)


CHANGES = [
    change_model,
    change_names,
    change_shape,
    change_parameters,
    change_contents,
    change_raw,
    change_outputs,
    change_inputs,
]


@cases(1500)
@given(message=requests())
def test_a_request_with_other_fields_is_answered_or_refused(channel: grpc.Channel, message: bytes) -> None:
    assert_answered_or_refused(channel.unary_unary(INFER), message)


@cases(800)
@given(data=st.data())
def test_bytes_of_a_request_that_are_changed_are_answered_or_refused(
    channel: grpc.Channel, data: st.DataObject
) -> None:
    message = bytearray(file_request([b"no image"], id="an id").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message)))
        message[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    assert_answered_or_refused(channel.unary_unary(INFER), bytes(message))


@cases(1000)
@given(name=st.sampled_from(METHODS), message=st.binary(max_size=40))
def test_any_bytes_to_any_method_are_answered_or_refused(channel: grpc.Channel, name: str, message: bytes) -> None:
    assert_answered_or_refused(channel.unary_unary(f"/inference.GRPCInferenceService/{name}"), message)


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x3a\x00", b"\x22\x00", b"\x32\x00", b"\x78\x01"])
def test_a_message_of_empty_fields_takes_no_memory(channel: grpc.Channel, field: bytes) -> None:
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(INFER)(field * 450_000, timeout=30)
        assert failure_of(caught.value).code == grpc.StatusCode.INVALID_ARGUMENT
