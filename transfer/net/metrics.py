"""Metrics for Prometheus: what the server does and has left; no machine and no ID is in them."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60)


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "transfer_requests", "Requests answered", ["call", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "transfer_request_seconds", "Time to an answer", ["call"], buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._received = Counter(
            "transfer_received_bytes", "Bodies of requests", registry=self._registry
        )
        self._sent = Counter("transfer_sent_bytes", "Bodies of answers", registry=self._registry)

    def watch(self, name: str, help: str, value: Callable[[], float]) -> None:
        """A gauge that is read when somebody looks."""
        Gauge(f"transfer_{name}", help, registry=self._registry).set_function(value)

    def done(self, call: str, status: int, seconds: float, received: int, sent: int) -> None:
        self._requests.labels(call, status).inc()
        self._seconds.labels(call).observe(seconds)
        self._received.inc(received)
        self._sent.inc(sent)

    def text(self) -> bytes:
        return generate_latest(self._registry)
