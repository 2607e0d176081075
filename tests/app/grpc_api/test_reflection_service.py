"""The standard reflection service, as grpcio's own client and protobuf read it."""

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.support.grpc_ports import GrpcServer


def test_the_services_and_their_messages_can_be_read(served: GrpcServer) -> None:
    with grpc.insecure_channel(served.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert sorted(database.get_services()) == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
        ]
        service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        assert service.FindMethodByName("ModelStreamInfer").client_streaming
        assert not service.FindMethodByName("ModelInfer").client_streaming
        request = service.FindMethodByName("ModelInfer").input_type
        assert request.fields_by_name["raw_input_contents"].number == 7
        assert DescriptorPool(database).FindServiceByName("grpc.health.v1.Health").FindMethodByName("Watch")
