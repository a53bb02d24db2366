"""Warm pages, ``304``, warm and cold wheels: ours beside nginx on the same documents, round by round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from .stage import CLIENT_CPU, FILE, PIP, SERVER_CPU, Server, Stage, file_path, stage
from .table import keep, ratios, show, spread

MB = 1_000_000
WHEEL_BYTES = 50 * MB
_HTTP1 = ("--h1",)
_HTTP2 = ("-m", "16")
LISTED = 34  # makes a page of about 10 KB


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request. ``paths`` and ``headers`` are by server name, since validators and links are each server's own."""

    name: str
    paths: Mapping[str, str]
    headers: Mapping[str, Mapping[str, str]]
    connections: int
    status: int = 200
    tls: tuple[str, ...] | None = None
    """Over TLS, with these options of ``h2load``."""

    @property
    def is_file(self) -> bool:
        return "wheel" in self.name


@dataclass(frozen=True, slots=True)
class Figure:
    """One case at one server in one round. ``cpu_s`` is the server's; times are microseconds."""

    rate: float
    gigabytes_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    cpu_s_gb: float
    errors: int


def run(rounds: int, seconds: float) -> bool:
    """Measure and print; False if a server answered anything wrong."""
    with stage() as here:
        big = here.shelf.wheel("big", "1.0", size=WHEEL_BYTES)
        cold = [here.shelf.wheel("cold", f"1.{number}", size=WHEEL_BYTES) for number in range(rounds + 1)]
        here.publish("small", [], listed=LISTED)
        here.publish("big", [big])
        here.publish("cold", cold)
        upstream = here.upstream()
        servers = [here.nginx(upstream), here.edge(upstream.port, tls=True)]
        warm_errors = _warm(here, servers, big.filename, rounds, seconds)
        cold_errors = _cold(here, [upstream, *servers], [wheel.filename for wheel in cold])
        return not warm_errors + cold_errors


def _cases(servers: list[Server], wheel: str) -> list[Case]:
    page = {server.name: f"{server.root}/simple/small/" for server in servers}
    plain = {server.name: PIP | {"Accept-Encoding": "identity"} for server in servers}
    packed = {server.name: PIP | {"Accept-Encoding": "gzip, deflate, br, zstd"} for server in servers}
    held: dict[str, Mapping[str, str]] = {}
    sizes = []
    for server in servers:
        _, headers, body = server.get("/simple/small/", packed[server.name])
        held[server.name] = packed[server.name] | {"If-None-Match": headers["etag"]}
        _, _, whole = server.get("/simple/small/", plain[server.name])
        sizes.append(f"{server.name} {len(whole):,} B ({headers.get('content-encoding', 'identity')}: {len(body):,} B)")
    print(f"page: {', '.join(sizes)}; wheel: {WHEEL_BYTES:,} B", flush=True)
    file = {server.name: file_path(server, "big", wheel) for server in servers}
    plain_file = {server.name: FILE for server in servers}
    return [
        Case("page, identity", page, plain, 32),
        Case("page, as pip asks", page, packed, 32),
        Case("page, as pip asks, 256 conns", page, packed, 256),
        Case("page, 304", page, held, 32, 304),
        Case("50 MB wheel, warm", file, plain_file, 1),
        Case("50 MB wheel, warm, 4 conns", file, plain_file, 4),
        Case("TLS: page, identity", page, plain, 32, tls=_HTTP1),
        Case("TLS: page, as pip asks", page, packed, 32, tls=_HTTP1),
        Case("TLS: page, 304", page, held, 32, 304, tls=_HTTP1),
        Case("TLS: 50 MB wheel, warm", file, plain_file, 1, tls=_HTTP1),
        Case("TLS, h2: page, as pip asks", page, packed, 8, tls=_HTTP2),
        Case("TLS, h2: 50 MB wheel, warm", file, plain_file, 1, tls=()),
    ]


def _warm(here: Stage, servers: list[Server], wheel: str, rounds: int, seconds: float) -> int:
    for server in servers:
        server.pin({SERVER_CPU})
    cases = _cases(servers, wheel)
    for case in cases:
        for server in servers:
            _measure(here, case, server, 0.2)
    figures: dict[str, dict[str, list[Figure]]] = {case.name: defaultdict(list) for case in cases}
    for number in range(rounds):
        for case in cases:
            for server in servers if number % 2 == 0 else reversed(servers):
                figures[case.name][server.name].append(_measure(here, case, server, seconds))
    rows, errors = [], 0
    for case in cases:
        nginx, ours = figures[case.name]["nginx"], figures[case.name]["leeward"]
        errors += sum(one.errors for one in nginx + ours)
        if case.is_file:
            unit, theirs_rate, our_rate = "GB/s", [one.gigabytes_s for one in nginx], [one.gigabytes_s for one in ours]
            cost, theirs_cost, our_cost = "s/GB", [one.cpu_s_gb for one in nginx], [one.cpu_s_gb for one in ours]
        else:
            unit, theirs_rate, our_rate = "req/s", [one.rate for one in nginx], [one.rate for one in ours]
            cost, theirs_cost, our_cost = "us", [one.cpu_us for one in nginx], [one.cpu_us for one in ours]
        rows.append(
            [
                case.name,
                unit,
                spread(theirs_rate),
                spread(our_rate),
                spread(ratios(our_rate, theirs_rate)),
                f"{spread(theirs_cost).split()[0]} / {spread(our_cost).split()[0]} {cost}",
                _percentiles(nginx),
                _percentiles(ours),
            ]
        )
    head = ["case", "", "nginx", "leeward", "ratio", "CPU nginx / leeward", "p50/p99 nginx, us", "p50/p99 leeward, us"]
    show(f"Warm: {rounds} interleaved rounds of {seconds} s; medians [range]; one core each for server and client", head, rows)
    print("resident: " + ", ".join(f"{server.name} {server.usage().resident_bytes / MB:.0f} MB" for server in servers))
    keep("warm", {name: {server: [asdict(one) for one in each] for server, each in by.items()} for name, by in figures.items()})
    if errors:
        print(f"{errors} answers were wrong: the figures above do not count")
    return errors


def _percentiles(figures: list[Figure]) -> str:
    if not any(one.p50_us for one in figures):
        return "-"  # h2load tells no percentiles
    return "/".join(spread(values).split()[0] for values in ([one.p50_us for one in figures], [one.p99_us for one in figures]))


def _measure(here: Stage, case: Case, server: Server, seconds: float) -> Figure:
    before = server.usage().cpu_s
    path, headers = case.paths[server.name], case.headers[server.name]
    if case.tls is not None:
        load = here.client.run_tls(server.tls_port, path, headers, case.connections, max(seconds, 1), *case.tls)
    else:
        options = ("-c", str(case.connections), "-t", str(seconds), "-e", str(case.status), "-k", str(CLIENT_CPU))
        load = here.client.run(server.port, path, headers, *options)
    cpu_s = server.usage().cpu_s - before
    if load.errors:
        print(f"{case.name} at {server.name}: {load.errors} errors, the first: {load.trouble}", flush=True)
    gigabytes = load.received / 1e9
    return Figure(
        rate=load.answers / load.seconds,
        gigabytes_s=gigabytes / load.seconds,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        cpu_us=cpu_s / load.answers * 1e6 if load.answers else 0,
        cpu_s_gb=cpu_s / gigabytes if gigabytes else 0,
        errors=load.errors,
    )


def _cold(here: Stage, servers: list[Server], wheels: list[str]) -> int:
    """Each round asks for a wheel that nobody has asked for before; the page that lists it is held, as it is when pip asks."""
    every_core = {SERVER_CPU, CLIENT_CPU}
    for server in servers:
        server.pin(every_core)
    total: dict[str, list[float]] = defaultdict(list)
    first: dict[str, list[float]] = defaultdict(list)
    errors = 0
    for number, wheel in enumerate(wheels):
        for server in servers if number % 2 == 0 else reversed(servers):
            path = f"/files/{wheel}" if server.name != "leeward" else file_path(server, "cold", wheel)
            load = here.client.run(server.port, path, FILE, "-1", "-c", "1", "-t", "60")
            errors += load.errors
            if load.errors or not load.answers:
                print(f"cold wheel at {server.name}: {load.trouble or 'not finished within 60 s'}", flush=True)
                continue
            if number:  # the first is for everybody to get ready
                first[server.name].append(load.each[0][0] / 1000)
                total[server.name].append(load.each[0][1] / 1000)
    names = {"upstream": "direct download"}
    rows = [
        [
            names.get(server.name, server.name),
            spread(total[server.name]),
            spread(first[server.name]),
            spread(ratios(total[server.name], total["upstream"])) if len(total[server.name]) == len(total["upstream"]) else "-",
        ]
        for server in servers
    ]
    show("Cold: a 50 MB wheel nobody asked for before, all cores", ["through", "whole, ms", "first byte, ms", "of direct"], rows)
    keep("cold", {"total_ms": total, "first_byte_ms": first})
    return errors
