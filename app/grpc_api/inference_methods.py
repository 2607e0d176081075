"""The methods of GRPCInferenceService: from a call's message to its response."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict

from app.api.auth import AccessLevel
from app.api.dependencies import Service
from app.api.oip_operations import (
    MODEL_VERSION,
    check_model_version,
    load_model,
    model_config,
    model_metadata,
    repository_index,
    run_inference,
    server_metadata,
    statistics_of,
)
from app.errors import BadInference
from app.grpc_api.inference_messages import message_type
from app.grpc_api.inference_translation import binary_body, has_large_contents, response_message
from app.grpc_api.message_bounds import split_request
from app.grpc_api.rpc_calls import RpcCall, Serve
from app.serving.canary import CANARY_HEADER
from bundle.bundle_errors import ExplainedError

_TIMEOUT = "timeout"  # a parameter of requests, in microseconds


class _Unary(NamedTuple):
    """A method with one request and one response, other than inference."""

    required: AccessLevel
    answer: Callable[[Any], Awaitable[Any]]
    probe: bool = False


class InferenceMethods:
    """Answers the calls with what app.api.oip_operations does for `service`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._converting = asyncio.Lock()  # large contents, which take three times their memory meanwhile
        health = AccessLevel[service.settings.health_access.upper()]
        self.unary = {
            "ServerLive": _Unary(health, self._live, probe=True),
            "ServerReady": _Unary(health, self._ready, probe=True),
            "ServerMetadata": _Unary(AccessLevel.KEY, self._server_metadata),
            "ModelReady": _Unary(AccessLevel.KEY, self._model_ready),
            "ModelMetadata": _Unary(AccessLevel.KEY, self._model_metadata),
            "ModelConfig": _Unary(AccessLevel.KEY, self._model_config),
            "ModelStatistics": _Unary(AccessLevel.KEY, self._statistics),
            "RepositoryIndex": _Unary(AccessLevel.KEY, self._index),
            "RepositoryModelLoad": _Unary(AccessLevel.ADMIN, self._load),
            "RepositoryModelUnload": _Unary(AccessLevel.ADMIN, self._unload),
        }

    def serving(self, name: str) -> Serve:
        """What answers calls of the method `name` in `unary`."""
        method, request_type = self.unary[name], message_type(f"{name}Request")

        async def serve(call: RpcCall) -> None:
            await call.authorize(method.required)
            await call.send(await method.answer(await call.only_message(request_type)))

        return serve

    async def model_infer(self, call: RpcCall) -> None:
        """Answer a call of ModelInfer."""
        await call.authorize(AccessLevel.KEY, rate_limited=True)
        message = [await call.only_raw()]
        with self._service.body_limits.hold(len(message[0])):
            response = await self.infer(message, call)
        await call.send(response)

    async def infer(self, message: list[bytes], call: RpcCall) -> Any:
        """The ModelInferResponse to a ModelInferRequest, whose caller and size have been accepted.

        `message` has its bytes, and is emptied, so that they are in memory only until there is a body of them.
        `call` gets the model and the stages. Raises what the REST route does.
        """
        service = self._service
        split = split_request(message.pop(), service.settings.max_images)
        request = split.request
        call.message_id = request.id
        caller = call.inference_caller(_deadline(request, call))
        call.model = request.model_name or service.repository.default
        if request.model_version:
            check_model_version(call.model, request.model_version)
        model, call.revision = service.revision(call.model, call.headers.get(CANARY_HEADER.lower(), ""))
        model.check(caller=caller.name)
        with model.in_use():
            if has_large_contents(split):
                async with self._converting:
                    body, json_bytes = await asyncio.to_thread(binary_body, split)
            else:
                body, json_bytes = binary_body(split)
            del split, request  # what goes on is a copy of them
            inference, outputs, call.stages = await run_inference(service, model, body, json_bytes, caller)
        if any(output.parameters for output in inference.outputs):  # sorting and writing many classes takes a while
            labels = [label.label for label in model.bundle.labels]
            response = await asyncio.to_thread(response_message, inference, call.model, outputs, labels)
        else:
            response = response_message(inference, call.model, outputs)
        if call.revision:
            response.parameters["revision"].string_param = call.revision
        return response

    def _model(self, name: str, version: str) -> Any:
        """The served model. Raises UnknownModel or NotReady."""
        if version:
            check_model_version(name, version)
        return self._service.repository.model(name)

    async def _live(self, _: Any) -> Any:
        return message_type("ServerLiveResponse")(live=True)

    async def _ready(self, _: Any) -> Any:
        return message_type("ServerReadyResponse")(ready=await self._is_ready())

    async def _server_metadata(self, _: Any) -> Any:
        return message_type("ServerMetadataResponse")(**server_metadata().model_dump())

    async def _model_ready(self, request: Any) -> Any:
        ready = request.version in ("", MODEL_VERSION) and await self._is_ready(request.name)
        return message_type("ModelReadyResponse")(ready=ready)

    async def _is_ready(self, name: str | None = None) -> bool:
        """Whether a model, or the default one, is ready; an unknown one is not, as Triton has it."""
        try:
            await self._service.group.check_ready(name)
        except ExplainedError:
            return False
        return True

    async def _model_metadata(self, request: Any) -> Any:
        name = self._model(request.name, request.version).bundle.name
        return message_type("ModelMetadataResponse")(**model_metadata(self._service, name).model_dump())

    async def _model_config(self, request: Any) -> Any:
        name = self._model(request.name, request.version).bundle.name
        return ParseDict({"config": model_config(self._service, name)}, message_type("ModelConfigResponse")())

    async def _statistics(self, request: Any) -> Any:
        if request.name:
            self._model(request.name, request.version)
        found = await statistics_of(self._service, request.name)
        return ParseDict(found, message_type("ModelStatisticsResponse")())

    async def _index(self, request: Any) -> Any:
        _check_repository(request)
        entries = repository_index(self._service, ready=request.ready)
        return message_type("RepositoryIndexResponse")(models=[entry.model_dump() for entry in entries])

    async def _load(self, request: Any) -> Any:
        _check_repository(request)
        await load_model(self._service, request.model_name, request.parameters)
        return message_type("RepositoryModelLoadResponse")()

    async def _unload(self, request: Any) -> Any:
        _check_repository(request)
        await self._service.group.unload(request.model_name)
        return message_type("RepositoryModelUnloadResponse")()


def _check_repository(request: Any) -> None:
    if request.repository_name:
        raise BadInference(f"there is one repository, without a name: not {request.repository_name[:60]!r}")


def _deadline(request: Any, call: RpcCall) -> float:
    """When the answer must be there: the call's deadline, or the request's parameter `timeout` if that is earlier."""
    parameter = request.parameters.get(_TIMEOUT)
    if parameter is None:
        return call.deadline
    microseconds: int = parameter.int64_param or parameter.uint64_param
    if microseconds < 0 or parameter.WhichOneof("parameter_choice") not in ("int64_param", "uint64_param"):
        raise BadInference(f"the parameter {_TIMEOUT!r} must be a whole number of microseconds, 0 (none) or more")
    if microseconds == 0:  # as Triton has it
        return call.deadline
    return min(call.deadline, time.perf_counter() + microseconds / 1e6)
