"""The settings: the one place that reads the environment and the command line of `crossvit serve`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict


def _split(value: object) -> object:
    return value.strip("[]").replace(",", " ").split() if isinstance(value, str) else value


class Settings(BaseSettings):
    """Serve a bundle over HTTP. Every option can also come from the environment: --max-batch is CROSSVIT_MAX_BATCH."""

    model_config = SettingsConfigDict(
        env_prefix="CROSSVIT_",
        cli_prog_name="crossvit serve",
        cli_kebab_case=True,
        cli_avoid_json=True,
    )

    bundle: Annotated[Path, Field(description="folder that export/to_onnx.py wrote")] = Path(
        "artifacts/crossvit_18_dagger"
    )
    host: Annotated[str, Field(description="address to listen on; 0.0.0.0 for all")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on")] = 8000
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime"], Field(description="auto takes the fastest, found by trying")
    ] = "auto"
    precision: Annotated[
        Literal["auto", "bf16", "f32"], Field(description="auto takes the fastest that the CPU has, found by trying")
    ] = "auto"
    max_batch: Annotated[int, Field(ge=1, le=1024, description="images in one engine call, at most")] = 8
    preload: Annotated[
        list[int],
        NoDecode,
        BeforeValidator(_split),
        Field(description="resolutions loaded at start besides the default one; others load at their first request"),
    ] = []
    max_body_bytes: Annotated[int, Field(ge=1, description="largest request body")] = 10_000_000
    max_pixels: Annotated[int, Field(ge=1, description="largest image, width times height")] = 50_000_000
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="least level logged")] = "info"

    @classmethod
    def from_command_line(cls, arguments: list[str]) -> "Settings":
        """The settings in `arguments`, the others from the environment; --help prints them all and exits."""
        return CliApp.run(cls, cli_args=arguments, cli_show_env_vars=True)
