"""Every metric, with the question it answers. Labels never hold a project's name.

Counters on the hot path are ``Tally`` objects: two plain integers that the server adds to without a lock, read by a collector when
somebody asks. Everything else is prometheus-client's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric


class Tally:
    """Answers of one kind: how many, and how many bytes of them were sent. Plain integers, for the event loop's thread alone."""

    __slots__ = ("count", "sent")

    def __init__(self) -> None:
        self.count = 0
        self.sent = 0

    def delivered(self, sent: int, complete: bool) -> None:
        """Count an answer that has ended, with the bytes of its body that were sent, whether that was all of it or not."""
        self.count += 1
        self.sent += sent


class Metrics:
    """One node's metrics, in a registry of their own so that tests can have many nodes in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._tallies: dict[tuple[str, str, str, str], Tally] = {}
        self.registry.register(self)
        r = self.registry
        # How often did we go upstream, for what, and through which source? Counts every attempt sent.
        self.upstream_requests = Counter(
            "leeward_upstream_requests", "Requests sent upstream", ["registry", "kind", "source"], registry=r
        )
        # How did those attempts end? The failure classes are those of sources/failures.py.
        self.upstream_failures = Counter(
            "leeward_upstream_failures", "Failed upstream attempts", ["registry", "kind", "failure"], registry=r
        )
        # How much came in from upstream?
        self.received_bytes = Counter("leeward_upstream_received_bytes", "Bytes received from upstream", registry=r)
        # How did fetches end, and how many requests rode on somebody else's?
        self.flights = Counter("leeward_flights", "Flights by outcome", ["outcome"], registry=r)
        self.flights_running = Gauge("leeward_flights_running", "Flights in the air", registry=r)
        # Which upstreams are we not waiting for? 1 while open.
        self.breaker_open = Gauge("leeward_breaker_open", "1 while the breaker is open", ["registry", "kind"], registry=r)
        # How full is the store, and what was given up for room?
        self.held_bytes = Gauge("leeward_store_held_bytes", "Bytes of blobs held", registry=r)
        self.held_blobs = Gauge("leeward_store_held_blobs", "Blobs held", registry=r)
        self.store_state = Gauge("leeward_store_state", "1 for the state the store is in", ["state"], registry=r)
        self.evicted_bytes = Counter("leeward_store_evicted_bytes", "Bytes evicted", registry=r)
        # What should an operator look at? The kinds are those of catalogue events.
        self.events = Counter("leeward_events", "Events by kind", ["kind"], registry=r)
        # Which rules are in force, and did the last edit of them fail?
        self.rules = Gauge("leeward_rules", "Rules in force", registry=r)
        self.rules_invalid = Gauge(
            "leeward_rules_invalid", "1 while the rules on disk are invalid and the last good ones stay", registry=r
        )
        # When does the authority's intermediate end, and could not all be signed that should have been?
        self.intermediate_ends = Gauge(
            "leeward_authority_intermediate_ends_seconds", "When the intermediate ends, UTC seconds; 0 without one", registry=r
        )
        self.authority_troubled = Gauge(
            "leeward_authority_troubled", "1 while a certificate is due that could not be made", registry=r
        )
        # Does this edge hear from its origin, how far behind is it, and has a silence used its lease up?
        self.origin_connected = Gauge("leeward_origin_connected", "1 while the origin answers this edge", registry=r)
        self.feed_lag = Gauge(
            "leeward_feed_lag_seconds", "For how long the origin may have had news that is not applied here", registry=r
        )
        self.lease_lapsed = Gauge(
            "leeward_lease_lapsed", "1 while the origin has been silent for longer than the lease", registry=r
        )
        # Is the ledger that this edge follows another one than it was (rolled back, forked)?
        self.feed_diverged = Gauge("leeward_feed_diverged", "1 while the origin's ledger is not the one followed", registry=r)
        # What was brought here unasked, and how did that end? What is still to come, since when, and what has failed for good?
        self.replication_brought = Counter(
            "leeward_replication_brought", "Pages and files brought unasked, by outcome", ["outcome"], registry=r
        )
        self.replication_wanted = Gauge("leeward_replication_wanted", "Pages and files still to be brought", registry=r)
        self.replication_dead = Gauge(
            "leeward_replication_dead_letters", "Pages and files that failed too often and are tried rarely", registry=r
        )
        self.replication_oldest = Gauge(
            "leeward_replication_oldest_unresolved_seconds", "Since when the oldest of them is wanted", registry=r
        )
        # What did comparisons with the origin find: wanted again here, offered there, other bytes under one name?
        self.replication_repairs = Counter("leeward_replication_repairs", "Repairs by kind", ["kind"], registry=r)
        # Were access records lost to a full buffer?
        self.access_lost = Counter("leeward_access_records_lost", "Access records dropped", registry=r)
        # How many client connections are open?
        self.connections = Gauge("leeward_connections", "Open client connections", registry=r)
        # Do clients trust the certificates they are shown? "distrusted" are those who said that they do not.
        self.handshakes = Counter("leeward_tls_handshakes", "TLS handshakes with clients", ["outcome"], registry=r)
        # When does the certificate that we show end?
        self.certificate_expires = Gauge(
            "leeward_certificate_expires_seconds", "End of the operator's certificate in use, in UTC seconds", registry=r
        )
        # How many connections lead past us to other hosts, and how much passes? Those of plain requests are told apart from tunnels.
        self.tunnels = Counter("leeward_tunnels", "Tunnels that ended", ["kind"], registry=r)
        self.tunnels_open = Gauge("leeward_tunnels_open", "Open tunnels", ["kind"], registry=r)
        self.tunnel_bytes = Counter("leeward_tunnel_bytes", "Bytes through tunnels", ["direction"], registry=r)
        # Did anything keep the event loop from its sockets? The longest stretch since the last scrape.
        self.loop_stall = Gauge("leeward_loop_stall_seconds_max", "Longest stretch between two waits for I/O", registry=r)
        # How long did answers take that were not hot hits?
        self.seconds = Histogram("leeward_request_seconds", "Time to the response's head, slow path", ["kind"], registry=r)

        # Up to which line is the ledger written here, or followed here?
        self.feed_serial = Gauge("leeward_feed_serial", "Last line of the ledger written (origin) or applied (edge)", registry=r)
        # Which revision of the origin's policy is in force here?
        self.verdicts_revision = Gauge("leeward_verdicts_revision", "Revision of the verdicts in force", registry=r)
        # How many edges follow us, and how many were not heard of within their lease?
        self.fleet_edges = Gauge("leeward_fleet_edges", "Edges of this origin", ["state"], registry=r)
        # How far behind is the last of the live edges, and how many of them do not yet have our present policy in force?
        self.fleet_behind = Gauge("leeward_fleet_behind_lines_max", "Lines that a live edge has yet to apply", registry=r)
        self.fleet_unacknowledged = Gauge(
            "leeward_fleet_unacknowledged_edges", "Live edges without the present verdicts in force", registry=r
        )
        # What became of files that edges took by themselves and offered?
        self.offers = Counter("leeward_offers", "Offered files by what became of them", ["outcome"], registry=r)

    def tally(self, face: str, registry: str, kind: str, outcome: str) -> Tally:
        """The tally of one kind of answer; keep the object and add to it."""
        key = (face, registry, kind, outcome)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally()
        return found

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The tallies, as prometheus-client wants them."""
        # Who asked for what, and how was it answered?
        requests = CounterMetricFamily("leeward_requests", "Answered requests", labels=["face", "registry", "kind", "outcome"])
        sent = 0
        for key, tally in self._tallies.items():
            requests.add_metric(list(key), tally.count)
            sent += tally.sent
        yield requests
        # How much went out to clients, and how much came in?
        traffic = CounterMetricFamily("leeward_bytes", "Bytes by direction", labels=["direction"])
        traffic.add_metric(["out"], sent)
        traffic.add_metric(["in"], self.received_bytes._value.get())
        yield traffic

    def text(self) -> bytes:
        """The Prometheus exposition, text format."""
        return generate_latest(self.registry)


def total(gauge: Gauge) -> float:
    """What a gauge says now, over all its labels."""
    return sum(sample.value for metric in gauge.collect() for sample in metric.samples)
