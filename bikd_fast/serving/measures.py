"""What Prometheus reads: a registry of this service's own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Measures:
    """Counters and histograms of one service."""

    def __init__(self) -> None:
        self.registry = into = CollectorRegistry()
        ProcessCollector(registry=into)
        self.requests = Counter("bikd_requests", "Answers by path and status", ["path", "status"], registry=into)
        self.seconds = Histogram("bikd_request_seconds", "From request to answer", ["path"], buckets=_SECONDS, registry=into)
        self.pictures = Counter("bikd_pictures", "Pictures judged, by verdict", ["verdict"], registry=into)
        self.network = Histogram("bikd_network_seconds", "One batch through the network", buckets=_SECONDS, registry=into)
        self.batch = Histogram("bikd_batch_pictures", "Pictures in a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=into)
        self.waiting = Gauge("bikd_waiting_pictures", "Pictures waiting for the network", registry=into)
        self.score = Histogram(  # its drift is seen before alarms begin
            "bikd_score_to_threshold", "Score over threshold", buckets=[i / 10 for i in range(21)], registry=into
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
