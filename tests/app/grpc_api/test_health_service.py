"""The standard health service, as grpcio's own client asks it."""

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from tritonclient.grpc import service_pb2

from tests.support.grpc_ports import GrpcServer, failure_of, stub_of
from tests.support.reference_network import TINY

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize("name", ["", "inference.GRPCInferenceService", TINY.name, "other"])
def test_the_service_and_its_models_are_serving(served: GrpcServer, name: str) -> None:
    with grpc.insecure_channel(served.address) as channel:
        assert HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING


def test_an_unknown_name_is_not_found(served: GrpcServer) -> None:
    request = health_pb2.HealthCheckRequest(service="resnet")
    with grpc.insecure_channel(served.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            HealthStub(channel).Check(request)
        assert failure_of(caught.value).code == grpc.StatusCode.NOT_FOUND
        watch = HealthStub(channel).Watch(request)
        assert next(watch).status == SERVICE_UNKNOWN
        watch.cancel()


def test_who_watches_a_model_sees_it_leave_and_come_back(served: GrpcServer, admin: dict[str, str]) -> None:
    with grpc.insecure_channel(served.address) as channel, stub_of(served.address) as stub:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="other"), timeout=60)
        assert next(watch).status == SERVING
        metadata = tuple(admin.items())
        stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="other"), metadata=metadata)
        assert next(watch).status == NOT_SERVING
        stub.RepositoryModelLoad(service_pb2.RepositoryModelLoadRequest(model_name="other"), metadata=metadata)
        assert next(watch).status == SERVING
        watch.cancel()
