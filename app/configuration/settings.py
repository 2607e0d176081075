"""The settings; the only module that reads the environment, and that makes options of them for `crossvit serve`."""

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.configuration import environment, quantities
from app.machine.cpus import usable_cpus
from app.machine.memory import affordable_decoders, usable_memory
from bundle.file_names import MODEL_NAME, MODEL_NAME_RULE
from model.command_line import command_of, option_name

log = logging.getLogger(__name__)


def _split(value: object) -> object:
    """The items of a list that is separated by commas, spaces or lines, or written as JSON."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            value = value.strip("[]")
    return [item.strip("\"'") for item in value.replace(",", " ").split()]


def _count_or_auto(value: object) -> object:
    return 0 if isinstance(value, str) and value.lower() == "auto" else value


def _model_name(value: str | None) -> str | None:
    if value is not None and not MODEL_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a model's name, which has {MODEL_NAME_RULE}")
    return value


_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@\s]+")

RequiredKey = Literal["open", "key", "admin"]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class Settings(BaseSettings):
    """Serve models over HTTP.

    A source is the name of a network (crossvit_18_dagger), a checkpoint, hf:OWNER/REPOSITORY[@REVISION], or a bundle.
    Every option can also be set in the environment: --max-batch is CROSSVIT_MAX_BATCH.
    """

    model_config = SettingsConfigDict(
        env_prefix=environment.PREFIX,
        hide_input_in_errors=True,  # inputs may be keys
    )

    # Models and engines
    sources: Annotated[
        list[str],
        NoDecode,
        BeforeValidator(_split),
        Field(description="what to serve, the default model first; what is no bundle is made into one, and kept"),
    ] = []
    labels: Annotated[
        Path | None, Field(description="file with the names of the classes, for a source that is a checkpoint")
    ] = None
    activation: Annotated[
        Literal["softmax", "sigmoid"] | None,
        Field(description="of the scores, for a source that is a checkpoint; sigmoid if classes do not exclude others"),
    ] = None
    quantize: Annotated[
        Literal["int8"] | None,
        Field(description="make the models in 8 bits too, while they serve, and serve these if they are as right"),
    ] = None
    bundle: Annotated[Path, Field(description="a bundle, or a folder of bundles, that is served without sources")] = (
        Path("artifacts/crossvit_9_dagger")
    )
    default_model: Annotated[
        str | None, Field(description="of several models, the one for requests without a model name")
    ] = None
    model_name: Annotated[
        str | None,
        AfterValidator(_model_name),
        Field(description="name of the model, of one bundle, instead of its folder's"),
    ] = None
    host: Annotated[str, Field(description="address to listen on; 0.0.0.0 for all, :: with IPv6")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on")] = 8000
    grpc_port: Annotated[
        int | None, Field(ge=0, le=65535, description="port for gRPC, which needs the extra grpc; none if left out")
    ] = None
    engine: Annotated[
        Literal["auto", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "onnxruntime", "null"],
        Field(
            description="auto takes a GPU engine if there is a GPU, else the fastest CPU engine, found by trying; null "
            "computes nothing, for measuring"
        ),
    ] = "auto"
    null_rate: Annotated[
        float, Field(ge=0, description="images per second of --engine null, which answers with zeros; 0 for at once")
    ] = 0
    precision: Annotated[
        Literal["auto", "fp16", "bf16", "f32", "int8", "int8-bf16"],
        Field(description="auto takes the fastest that agrees with float32, found by trying"),
    ] = "auto"
    least_agreement: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="auto takes precisions with float32's best class for this share of photographs, such as 0.99, "
            "instead of those that docs/accuracy.md's rule lets pass",
        ),
    ] = None
    jpeg: Annotated[
        Literal["cpu", "gpu"],
        Field(description="gpu decodes plain JPEGs on the GPU, in a process that is not sealed: see SECURITY.md"),
    ] = "cpu"
    scaled_jpeg: Annotated[
        bool, Field(description="decode large JPEGs at half, a quarter or an eighth of their size: faster, less exact")
    ] = False
    preload: Annotated[
        list[int],
        NoDecode,
        BeforeValidator(_split),
        Field(description="resolutions loaded at start besides the default one; others load at their first request"),
    ] = []

    # Beside the models
    shadow: Annotated[
        str | None, Field(description="a served model that gets copies of requests for others; its answers are counted")
    ] = None
    shadow_percent: Annotated[float, Field(gt=0, le=100, description="the share of requests that are copied")] = 10
    canary: Annotated[
        str | None,
        Field(description="NAME=PATH: a second bundle of the served model NAME, for a share of its requests"),
    ] = None
    canary_percent: Annotated[
        float, Field(ge=0, le=100, description="that share; X-Canary: always or never forces the choice")
    ] = 10
    drift_percent: Annotated[
        float,
        Field(ge=0, le=100, description="the share of requests whose answers are in the metrics of drift; 0 for none"),
    ] = 0
    answer_log: Annotated[
        Path | None, Field(description="folder for these answers as Parquet files; needs the extra parquet")
    ] = None
    answer_log_seconds: Annotated[Seconds, Field(description="after which a file of answers is complete")] = 300

    # Load
    max_batch: Annotated[
        int, Field(ge=0, le=1024, description="most images in one engine call; 0 for the engine's own best size")
    ] = 0
    max_queue: Annotated[
        int,
        Field(ge=0, description="most images that wait for one model (429); 0 for eight batches, at least 64"),
    ] = 0
    max_queue_bytes: Annotated[
        int, Field(ge=1, description="most memory of the decoded images that wait for one model (429)")
    ] = 512 << 20
    max_queue_seconds: Annotated[
        Seconds, Field(description="longest time that the images that wait may be expected to take (429)")
    ] = 30
    brown_out: Annotated[
        list[Seconds],
        NoDecode,
        BeforeValidator(_split),
        Field(
            max_length=2,
            description="seconds of waiting images from which resolution=auto takes its first step only, and requests "
            "that name no resolution do too, such as 1,3; never if left out",
        ),
    ] = []
    max_images: Annotated[int, Field(ge=1, description="most images in one request")] = 32
    request_seconds: Annotated[
        Seconds, Field(description="longest time for an answer; a client may set a shorter one")
    ] = 60
    engine_seconds: Annotated[
        Seconds, Field(description="longest engine call, or ten times its time at start if that is longer")
    ] = 10
    load_seconds: Annotated[Seconds, Field(description="longest start of an engine")] = 300

    instances: Annotated[
        int,
        BeforeValidator(_count_or_auto),
        Field(
            ge=0,
            le=1024,
            description="whole services on this port, each with its share of the CPUs; auto, or 0, measures how many "
            "are the fastest",
        ),
    ] = 1

    # Inputs
    max_body_bytes: Annotated[int, Field(ge=1, description="largest request body")] = 10_000_000
    max_bodies_bytes: Annotated[int, Field(ge=1, description="memory for all request bodies at once (503)")] = (
        256_000_000
    )
    max_pixels: Annotated[int, Field(ge=1, description="largest image, width times height")] = 50_000_000
    decoders: Annotated[
        int, Field(ge=0, description="decoder processes; 0 for one per usable CPU, as memory allows")
    ] = 0
    decode_seconds: Annotated[Seconds, Field(description="longest decoding of an image (422)")] = 5
    decode_bytes: Annotated[int, Field(ge=1, description="memory that decoding an image may take (422)")] = 1 << 30

    # Connections
    header_seconds: Annotated[Seconds, Field(description="longest arrival of a request's headers")] = 10
    body_seconds: Annotated[Seconds, Field(description="longest arrival of a request's body (408)")] = 30
    keep_alive_seconds: Annotated[Seconds, Field(description="how long an idle connection stays open")] = 75
    grpc_connection_seconds: Annotated[
        Seconds, Field(description="age at which a gRPC client is told to connect again, so that load is balanced")
    ] = 300
    max_connections: Annotated[
        int, Field(ge=1, description="most connections at once; beyond that, idle ones are closed")
    ] = 1000
    grace_seconds: Annotated[
        float, Field(ge=0, le=3600, description="between SIGTERM, when /readyz turns 503, and closing the port")
    ] = 5
    drain_seconds: Annotated[Seconds, Field(description="longest wait for open requests after that")] = 30

    # Access
    api_keys: Annotated[
        list[SecretStr],
        NoDecode,
        BeforeValidator(_split),
        Field(description="keys that may classify, NAME:KEY or KEY; without keys, everybody may"),
    ] = []
    api_keys_file: Annotated[
        Path | None, Field(description="file of such keys, one per line; read again when it changes")
    ] = None
    admin_keys: Annotated[
        list[SecretStr],
        NoDecode,
        BeforeValidator(_split),
        Field(description="keys that may load and unload models; without keys, only the admin port may"),
    ] = []
    admin_keys_file: Annotated[
        Path | None, Field(description="file of such keys, one per line; read again when it changes")
    ] = None
    admin_host: Annotated[str, Field(description="address of the admin port")] = "127.0.0.1"
    allowed_hosts: Annotated[
        list[str],
        NoDecode,
        BeforeValidator(_split),
        Field(description="host names that requests may use, except probes; by default any"),
    ] = []
    root_path: Annotated[
        str | None,
        Field(
            pattern=r"^(/[A-Za-z0-9._~-]+)+$",
            description="path prefix that a proxy keeps in requests, such as /crossvit",
        ),
    ] = None
    admin_port: Annotated[
        int | None,
        Field(ge=0, le=65535, description="port for loading and unloading models; the other port then refuses them"),
    ] = None
    rate_limit: Annotated[
        str | None,
        Field(pattern=r"^[1-9]\d*/(second|minute|hour|day)$", description="images per key, such as 100/minute"),
    ] = None
    health_access: Annotated[
        RequiredKey, Field(description="who may ask /livez, /readyz and /v2/health: open, key, admin")
    ] = "open"
    metrics_access: Annotated[RequiredKey, Field(description="who may read /metrics: open, key, admin")] = "open"
    docs: Annotated[bool, Field(description="serve /docs and /openapi.json")] = True
    page: Annotated[bool, Field(description="answer a browser's GET / with the page")] = True
    cors_origins: Annotated[
        list[str],
        NoDecode,
        BeforeValidator(_split),
        Field(description="origins of web pages that may call the service; * for all"),
    ] = []

    # Logs and traces
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="least level logged")] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"], Field(description="auto is console on a terminal, else json")
    ] = "auto"
    otlp_endpoint: Annotated[
        str | None, Field(description="where to send traces (OTLP over HTTP), such as http://collector:4318")
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> "Settings":
        if self.max_queue and self.max_images > self.max_queue:
            raise ValueError("max_images must not be over max_queue: such a request could never be accepted")
        if self.rate_limit and not (self.api_keys or self.api_keys_file):
            raise ValueError("rate_limit is for each API key: set api_keys or api_keys_file too")
        if self.model_name and (self.default_model or len(self.sources) > 1):
            raise ValueError(
                "model_name is the name of the only model: leave out default_model, and all but one source"
            )
        if self.model_name and self.shadow:
            raise ValueError("shadow is a second served model, and with model_name there is only one: leave one out")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("admin_port must not be the port: admins are recognized by the port number")
        if self.grpc_port and self.grpc_port in (self.port, self.admin_port):
            raise ValueError("grpc_port must be a port of its own: it speaks another protocol")
        if self.answer_log and not self.drift_percent:
            raise ValueError("answer_log has the answers of drift_percent of the requests: set that too, such as 100")
        for name in ("shadow", "canary"):
            if f"{name}_percent" in self.model_fields_set and not getattr(self, name):
                raise ValueError(f"{name}_percent is a share of the requests for {name}: set that too")
        if list(self.brown_out) != sorted(self.brown_out):
            raise ValueError("brown_out must be two ascending numbers of seconds: the first rung is the lower one")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} in cors_origins is not an origin: SCHEME://HOST[:PORT] without a path, or *"
                )
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: object, info: ValidationInfo) -> object:
        """Read numbers in the forms of app.configuration.quantities, by the setting's name (bytes, seconds).

        Choices may be in capitals or small letters.
        """
        name = info.field_name or ""
        annotation = cls.model_fields[name].annotation
        if not isinstance(value, str):
            return value
        if get_origin(annotation) is Literal:
            return value.lower()
        if get_origin(annotation) is list or not {int, float} & {annotation, *get_args(annotation)}:
            return value
        if name.endswith("_bytes"):
            return quantities.size(value)
        return quantities.seconds(value) if name.endswith("_seconds") else quantities.whole(value)

    @property
    def bundles(self) -> list[Path]:
        """Where the bundles are; sources are bundles once `crossvit serve` has made those that were not."""
        return [Path(source) for source in self.sources] or [self.bundle]

    @property
    def decoder_count(self) -> int:
        """The number of decoder processes; unless it is set, one per usable CPU, if there is memory for them."""
        affordable = self.affordable_decoders
        return self.decoders or (usable_cpus() if affordable is None else min(usable_cpus(), affordable))

    @property
    def affordable_decoders(self) -> int | None:
        """The number of decoders for which there is memory, if that is known."""
        return affordable_decoders(usable_memory(), self.max_pixels, self.decode_bytes)

    def for_one_of(self, instances: int) -> "Settings":
        """The settings of one of `instances`: bounds that describe the service as a whole are divided.

        Each instance has room for one request of the largest size at least.
        """
        if instances == 1:
            return self
        bounds = {
            "max_connections": max(1, self.max_connections // instances),
            "max_queue": max(self.max_images, self.max_queue // instances) if self.max_queue else 0,
            "max_queue_bytes": self.max_queue_bytes // instances,
            "max_bodies_bytes": max(self.max_body_bytes, self.max_bodies_bytes // instances),
            "decoders": max(1, self.decoders // instances) if self.decoders else 0,
        }
        return self.model_copy(update=bounds)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls)

    @classmethod
    def from_command_line(cls, arguments: list[str]) -> "Settings":
        """The settings from `arguments`, and the others from the environment; --help prints all of them and exits."""
        return cls(**_given(arguments))

    @classmethod
    def replace_sources(cls, arguments: list[str], sources: Sequence[Path]) -> list[str]:
        """`arguments` with other sources."""
        options = _given(arguments)
        options.pop("sources", None)
        return [*(_as_argument(name, value) for name, value in options.items()), "--", *map(str, sources)]


def _given(arguments: list[str]) -> dict[str, Any]:
    """The settings that the command line has, as text; --help prints all of them and exits."""
    command = command_of(Settings, dict, positional="sources", variable=variable)
    given = command(arguments, prog_name="crossvit serve", standalone_mode=False)
    if not isinstance(given, dict):  # --help was asked for
        raise typer.Exit
    return given


def _as_argument(name: str, value: object) -> str:
    if isinstance(value, bool):
        return option_name(name) if value else option_name(f"no-{name}")
    return f"{option_name(name)}={value}"


class _Environment(EnvSettingsSource):
    """The environment as app.configuration.environment reads it."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self.env_vars = {name.lower(): value for name, value in environment.variables(os.environ).items()}


def variable(name: str) -> str:
    """The environment variable of the setting called `name`."""
    return f"{environment.PREFIX}{name.upper()}"


def log_remarks() -> None:
    """Warn of environment variables that look like settings and are not."""
    for remark in environment.remarks(os.environ, [variable(name) for name in Settings.model_fields]):
        log.warning("%s", remark)
