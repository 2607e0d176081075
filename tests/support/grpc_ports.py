"""Services with a gRPC port, and calls to it with the messages of a stock client."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from tests.support.servers import Server, crossvit_serve, free_port

SIDE = 224


@dataclass
class GrpcServer:
    """A service, and the address of its gRPC port."""

    http: Server
    address: str

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric's sample that has these labels; 0 if there is none."""
        text = httpx.get(f"{self.http.url}/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0


@contextmanager
def serving_grpc(log: Path, *options: str) -> Iterator[GrpcServer]:
    """`crossvit serve` with a gRPC port; it may not be ready yet."""
    port = free_port()
    with crossvit_serve(log, *options, "--grpc-port", str(port)) as server:
        yield GrpcServer(server, f"127.0.0.1:{port}")


@contextmanager
def stub_of(address: str, *options: tuple[str, Any]) -> Iterator[Any]:
    """The protocol's stub on a connection of its own."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *options]) as channel:
        yield GRPCInferenceServiceStub(channel)


def infer_request(model: str = "crossvit_tiny", count: int = 1, **fields: Any) -> Any:
    """A ModelInferRequest with the pixels of `count` black images."""
    pixels = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    return request


def file_request(files: list[bytes], model: str = "crossvit_tiny", **fields: Any) -> Any:
    """A ModelInferRequest with image files in `contents`."""
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    contents = service_pb2.InferTensorContents(bytes_contents=files)
    request.inputs.add(name="encoded", datatype="BYTES", shape=[len(files)], contents=contents)
    return request


@dataclass
class RpcFailure:
    """How a call failed: its status, its trailing metadata, and the details of google.rpc."""

    code: grpc.StatusCode
    text: str
    trailers: dict[str, Any]
    reason: str = ""
    retry_seconds: int | None = None


def failure_of(err: grpc.RpcError) -> RpcFailure:
    """What a client can read of the error that its call raised."""
    trailers = dict(err.trailing_metadata() or ())
    failure = RpcFailure(err.code(), err.details() or "", trailers)
    for detail in Status.FromString(trailers.get("grpc-status-details-bin", b"")).details:
        info, retry = ErrorInfo(), RetryInfo()
        if detail.Unpack(info):
            failure.reason = info.reason
        if detail.Unpack(retry):
            failure.retry_seconds = retry.retry_delay.seconds
    return failure
