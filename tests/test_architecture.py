"""The shape of the tree, held by reading it: who may import whom, where blocking calls live, what no file may spell.

Nothing here imports the project; it is parsed. A rule that has exceptions lists them in a table, each with its reason.
"""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("origin", "edge")

LAYERS: tuple[tuple[str, ...], ...] = (
    ("origin.model", "origin.errors"),
    ("origin.registries", "origin.policy", "origin.freshness", "origin.targets", "origin.toml_lines", "origin.api.wire"),
    (
        "origin.metrics",
        "origin.words",
        "origin.settings",
        "origin.loading",
        "origin.node_settings",
        "origin.logs",
        "origin.datadir",
        "origin.identity",
        "origin.issuing",
        "origin.loopwatch",
    ),
    ("origin.blobs", "origin.catalog", "origin.sources", "origin.http", "origin.flights"),
    (
        "origin.notes",
        "origin.pipeline",
        "origin.feed",
        "origin.fleet",
        "origin.holdings",
        "origin.intake",
        "origin.tokens",
        "origin.webhooks",
        "origin.access",
    ),
    (
        "origin.graveyard",
        "origin.proving",
        "origin.dating",
        "origin.prepared",
        "origin.held",
        "origin.leaves",
        "origin.pages",
        "origin.files",
        "origin.groups",
        "origin.relays",
        "origin.service",
    ),
    (
        "origin.api",
        "origin.control",
        "origin.programs",
        "origin.terminal",
        "origin.watch",
        "origin.recalling",
        "origin.backup",
        "origin.app",
    ),
    ("origin.central", "origin.listening", "origin.serve"),
    ("origin.__main__", "origin"),
    ("edge",),
)
"""Lowest first. A module imports from its own layer or below; within a layer nothing may run in a circle."""

PURE = LAYERS[0] + LAYERS[1]
"""Values and rules: the same answer for the same arguments, so that they can be tested by a plain call and run in any thread."""

IMPURE_MODULES = frozenset(
    "asyncio http.client httpx mitmproxy multiprocessing prometheus_client random secrets select selectors socket sqlite3 ssl "
    "subprocess tempfile threading time trio urllib.request".split()
)
CLOCK_CALLS = frozenset({"now", "utcnow", "today"})

BLOCKING = frozenset({"sqlite3", "trio.to_thread", "trio.from_thread"})
MAY_BLOCK: dict[str, str] = {
    "origin.blobs": "files are its subject",
    "origin.backup": "files are its subject",
    "origin.catalog": "a database is its subject",
    "origin.http.certificate": "an operator's files are read again in a worker thread, since their disk may hang",
    "origin.http.sending": "a piece of a file that is not in memory is read ahead in a thread, since sendfile would block the loop",
    "origin.feed": "the whole ledger is walked in a worker thread, piece by piece",
    "origin.api.server": "large pages are framed and coded in worker threads",
    "origin.api.following": "large messages are coded in worker threads",
    "origin.api.batches": "large batches are coded in worker threads",
    "origin.fleet": "the fleet's key is written down in a worker thread",
    "origin.graveyard": "what large listings hold is freed in a worker thread",
    "origin.groups": "large listings are made one in worker threads",
    "origin.pages": "large listings are parsed in worker threads",
    "origin.pipeline": "archives are read in worker threads",
    "origin.relays": "large answers are judged in worker threads",
    "origin.sources.registry": "what is posted is read once more in a worker thread, since it may be large",
    "origin.sources.remote": "large pages are taken apart in a worker thread",
    "edge.fleet_keys": "the fleet's key is written down in a worker thread",
    "edge.intercept": "certificates are read in a worker thread",
    "edge.mirror": "a request's coded body is unpacked in a worker thread",
    "edge.readiness": "files are hashed and archives read in worker threads, to know what more a lock needs",
    "edge.render": "large pages are written in worker threads",
}
"""Where blocking calls are made, off the event loop. Prefixes of module names, each with its reason."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "mitmproxy": ("edge.capture",),  # its server is asyncio: one process of its own, behind one module
    "asyncio": ("edge.capture",),  # two event loops in one process is a trap
    "requests": (),
    "aiohttp": (),
    "pickle": (),  # what can be unpickled can run code
}

LONG_MODULES: dict[str, str] = {
    "origin/blobs/disk.py": "one store and its spool, whose states are read together",
    "origin/sources/registry.py": "one request, with its retries, redirects and what is learnt from how it ends",
    "tests/contracts/registries.py": "one suite: the laws of one protocol",
    "tests/harness.py": "one stage that every end-to-end test stands on",
}
"""Modules over 700 lines, each with the reason why it is one subject. Paths from the root."""

# The first 20 hexadecimal digits of the SHA-256 of each public registry's host names: their names stand nowhere in the tree.
PUBLIC_HOSTS = frozenset(
    """
    00a7dc5a0cc388586b86 095fbbaf0076d564cb46 0dc11026ac75c015aaa1 317d2d52829b78129d2c 3ca29e55be4befa48f87 3d01f3609be82d98eeed
    43c04ed1dabe979b9c55 5cd04dc6512f5c5771d2 70bb4000cd2fab03af01 789e46d79514e28093ca 8743857e3ea00fd1c64b 8b5bb5eb9d758455b863
    9495278a74715c7e246a 9ab2ad663f3d2a5e0a38 9da5f32d964125123cc3 a4aa2ac280bb8d1a0ce7 c899567ee906851741bf e680c440a2e92079ab1b
    eb7e11c7f9ecbcf48099
    """.split()
)
HOST = re.compile(rb"[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)+")
HOME = re.compile(rb"(?<![\w.-])/(?:home|Users|root)/[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Module:
    """One file, as parsed. ``name`` is dotted; a package's is that of its folder."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """What its relative imports begin from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, ours or another's, and where it is asked for."""

    name: str
    line: int


def modules() -> Iterator[Module]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield parsed(name, path)


@cache
def parsed(name: str, path: Path) -> Module:
    return Module(name, path, ast.parse(path.read_bytes(), str(path)))


def imports(module: Module, known: frozenset[str]) -> Iterator[Import]:
    """Everything a module imports, at its top or inside a function. ``from . import x`` means ``x`` where that is a module."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *([node.module] if node.module else [])])
            submodules = [f"{base}.{alias.name}" for alias in node.names]
            yield from (Import(name, node.lineno) for name in submodules if name in known or name in BLOCKING)
            if any(name not in known for name in submodules):
                yield Import(base, node.lineno)


def within(name: str, prefixes: tuple[str, ...] | dict[str, str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def layer(name: str) -> int | None:
    """The layer of a module of ours: the longest prefix in ``LAYERS`` decides. None if it has no place there."""
    found = [
        (len(prefix), level)
        for level, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if name == prefix or (name.startswith(prefix + ".") and prefix != "origin")
    ]
    return max(found)[1] if found else None


def names() -> frozenset[str]:
    return frozenset(module.name for module in modules())


def ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def at(module: Module, line: int) -> str:
    return f"{module.path.relative_to(ROOT)}:{line}"


def test_every_module_has_a_place_in_the_layers() -> None:
    homeless = [module.name for module in modules() if layer(module.name) is None]
    assert homeless == [], "say in LAYERS where it belongs"


def test_imports_run_downwards() -> None:
    known = names()
    upward = [
        f"{at(module, used.line)} imports {used.name}"
        for module in modules()
        for used in imports(module, known)
        if ours(used.name) and (layer(used.name) or 0) > (layer(module.name) or 0)
    ]
    assert upward == []


def test_origin_never_imports_edge() -> None:
    known = names()
    assert [
        at(module, used.line)
        for module in modules()
        for used in imports(module, known)
        if within(module.name, ("origin",)) and within(used.name, ("edge",))
    ] == []


def test_no_module_imports_itself_through_others() -> None:
    known = names()
    graph = {module.name: {used.name for used in imports(module, known) if used.name in known} for module in modules()}
    assert circle(graph) == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, as the names along it; empty if there is none."""
    done: set[str] = set()

    def follow(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for following in sorted(graph[name]):
            if found := follow(following, [*trail, name]):
                return found
        done.add(name)
        return []

    for name in sorted(graph):
        if found := follow(name, []):
            return found
    return []


def test_the_circle_finder_finds_a_circle() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_values_and_rules_use_no_clock_no_loop_no_socket_and_no_database() -> None:
    known = names()
    impure = [
        f"{at(module, used.line)} imports {used.name}"
        for module in modules()
        if within(module.name, PURE)
        for used in imports(module, known)
        if within(used.name, tuple(IMPURE_MODULES))
    ]
    for module in modules():
        if within(module.name, PURE):
            impure += [
                f"{at(module, node.lineno)} calls {ast.unparse(node.func)}"
                for node in ast.walk(module.tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_CALLS
            ]
    assert impure == []


def test_blocking_calls_are_made_only_where_they_are_the_subject() -> None:
    known = names()
    blocking = []
    for module in modules():
        if within(module.name, MAY_BLOCK):
            continue
        blocking += [
            f"{at(module, used.line)} imports {used.name}"
            for used in imports(module, known)
            if within(used.name, tuple(BLOCKING))
        ]
        blocking += [
            f"{at(module, node.lineno)} uses {ast.unparse(node)}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node) in BLOCKING
        ]
    assert blocking == [], "move it into blobs/ or catalog/, or give it a line with its reason in MAY_BLOCK"


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_with_a_fence_stays_behind_it(library: str) -> None:
    known = names()
    assert [
        at(module, used.line)
        for module in modules()
        for used in imports(module, known)
        if within(used.name, (library,)) and module.name not in ONLY_IN[library]
    ] == []


def test_no_module_is_too_long_to_be_one_subject() -> None:
    paths = [path for folder in (*PACKAGES, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in paths}
    assert {path: lines for path, lines in lengths.items() if lines > 700 and path not in LONG_MODULES} == {}


# ---- the tree --------------------------------------------------------------------------------------------------------


def texts() -> Iterator[tuple[str, bytes]]:
    """Every text file that is, or could be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in sorted(filter(None, listed.stdout.decode().split("\0"))):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes())[:4096]:
            yield name, data


def test_no_file_spells_a_public_registry() -> None:
    spelled = []
    for name, data in texts():
        for number, line in enumerate(data.lower().splitlines(), 1):
            spelled += [f"{name}:{number}" for host in HOST.findall(line) if fingerprint(host) in PUBLIC_HOSTS]
    assert spelled == []


@cache
def fingerprint(host: bytes) -> str:
    return hashlib.sha256(host).hexdigest()[:20]


def test_no_file_names_a_place_on_a_developers_machine() -> None:
    here = f"{ROOT}/".encode()
    assert [name for name, data in texts() if here in data or HOME.search(data)] == []


def test_requirements_are_pinned_with_hashes_and_without_addresses() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        assert "://" not in text, path.name
        assert "index-url" not in text, path.name
        joined = text.replace("\\\n", " ")
        pins = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert pins, path.name
        unpinned = [line[:60] for line in pins if "==" not in line or "--hash=sha256:" not in line]
        assert unpinned == [], path.name
