"""The standard reflection service (grpc.reflection.v1alpha): tools such as grpcurl read the messages from it."""

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from app.grpc_api.health_service import HEALTH_SERVICE
from app.grpc_api.inference_messages import INFERENCE_SERVICE, POOL
from app.grpc_api.rpc_calls import RpcCall, messages_of

REFLECTION_SERVICE: str = reflection.SERVICE_NAME


class ReflectionService:
    """Describes the services of the port to everybody, as /openapi.json describes the routes."""

    def __init__(self) -> None:
        for described in (health_pb2, reflection_pb2):
            POOL.AddSerializedFile(described.DESCRIPTOR.serialized_pb)
        names = (INFERENCE_SERVICE, HEALTH_SERVICE, REFLECTION_SERVICE)
        self._servicer = reflection.aio.ReflectionServicer(names, POOL)

    async def serve(self, call: RpcCall) -> None:
        """Answer the questions of a stream. Raises NotReady when the port stops."""
        await call.idle.wait(self._answer(call))

    async def _answer(self, call: RpcCall) -> None:
        requests = messages_of(call, reflection_pb2.ServerReflectionRequest)
        async for response in self._servicer.ServerReflectionInfo(requests, call.context):
            await call.send(response)
