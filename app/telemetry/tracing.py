"""OpenTelemetry traces; optional: the extra `otel` and --otlp-endpoint."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from app.errors import BadParameter
from app.timing import Interval
from bundle.installation import install_command

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0  # for sending the last spans


class Tracing:
    """Sends a span for each request, with its stages as children, over OTLP/HTTP to `endpoint`.

    Spans continue the caller's `traceparent`. They are made when a request has ended, from the measured intervals, and
    sent in the background: a collector that cannot be reached slows no request, and is logged once. BadParameter if
    the extra is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as err:
            raise BadParameter(f"traces need OpenTelemetry: {install_command('otel')}") from err
        resource = Resource.create({"service.name": "crossvit", "service.version": version("crossvit")})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter: Any = _QuietExporter(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("crossvit")
        self._propagator = TraceContextTextMapPropagator()
        self._server, self._error, self._within = SpanKind.SERVER, StatusCode.ERROR, set_span_in_context

    def record(
        self, method: str, route: str, status: int, headers: Mapping[str, str], state: Mapping[str, Any]
    ) -> None:
        """Send the spans of an HTTP request that has ended now; `state` has `started`, `request_id` and `stages`."""
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        self._send(f"{method} {route}", attributes, status >= 500, headers, state)

    def record_rpc(
        self, service: str, method: str, code: int, failed: bool, headers: Mapping[str, str], state: Mapping[str, Any]
    ) -> None:
        """Send the spans of a gRPC call that has ended now; `failed` says whether its status code is the service's."""
        attributes: dict[str, str | int] = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "rpc.grpc.status_code": code,
        }
        self._send(f"{service}/{method}", attributes, failed, headers, state)

    def _send(
        self,
        name: str,
        attributes: dict[str, str | int],
        failed: bool,
        headers: Mapping[str, str],
        state: Mapping[str, Any],
    ) -> None:
        epoch = time.time() - time.perf_counter()

        def nanoseconds(moment: float) -> int:
            return int((epoch + moment) * 1e9)

        span = self._tracer.start_span(
            name,
            context=self._propagator.extract(headers),
            kind=self._server,
            start_time=nanoseconds(state["started"]),
            attributes=attributes | {"crossvit.request_id": state["request_id"]},
        )
        if failed:
            span.set_status(self._error)
        stages: list[tuple[str, Interval]] = state["stages"]
        for stage_name, stage in stages:
            child = self._tracer.start_span(stage_name, context=self._within(span), start_time=nanoseconds(stage.start))
            child.end(end_time=nanoseconds(stage.end))
        span.end(end_time=nanoseconds(time.perf_counter()))

    def close(self) -> None:
        """Send the last spans, within a few seconds."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_CLOSE_SECONDS)


class _QuietExporter:
    """An exporter whose first error is logged, and no further one until it has sent something again."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._failing = False
        self._logger = logging.getLogger(type(exporter).__module__)
        self._logger.addFilter(self._first)

    def export(self, spans: Sequence[Any]) -> Any:
        result = self._exporter.export(spans)
        if self._failing and result.name == "SUCCESS":
            self._failing = False
            log.info("traces are sent again")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        self._logger.removeFilter(self._first)

    def _first(self, _: logging.LogRecord) -> bool:
        first, self._failing = not self._failing, True
        return first
