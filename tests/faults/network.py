"""A network of a test's own: a hub in the middle, where the registries are, and a namespace for each node, with a wire to the hub.

What a node does on its own loopback, clients of it included, goes on whatever is cut. Between any two of the network, packets can be
dropped (nobody answers) or refused (a reset), and a node's wire can be pulled. Everything is gone when the block ends.

It wants to be begun in a namespace that is new (``capture_stage.in_own_network``), which becomes the hub.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from tests.capture_stage import ip

type Cut = Literal["drop", "refuse"]

HUB = "10.78.0.1"


class Namespace:
    """A network namespace, held open by ``fd``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def here(cls) -> Self:
        """The one that this thread is in."""
        return cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def of(cls, pid: int) -> Self:
        """The one that a process is in."""
        return cls(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        os.close(self._fd)

    def enter(self) -> None:
        """Take this thread there for good, with every process that it starts."""
        os.setns(self._fd, os.CLONE_NEWNET)

    def run[**P, T](self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call there, in a thread that is there; gives and raises what it does."""
        results: list[T] = []
        failed: list[BaseException] = []

        def inside() -> None:
            try:
                self.enter()
                results.append(call(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 -- handed over to whoever asked
                failed.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return results[0]


class Network:
    """The hub, and a namespace for each node. ``addresses`` are everybody's, by name: nodes have one, registries as many as their hosts."""

    def __init__(self, hub: Namespace) -> None:
        self.hub = hub
        self.addresses: dict[str, list[str]] = {}
        self.nodes: dict[str, Namespace] = {}
        self._wires: dict[str, str] = {}
        self._cuts: dict[frozenset[str], Cut] = {}
        self._lock = threading.Lock()

    @classmethod
    @contextlib.contextmanager
    def start(cls, *nodes: str, registries: Sequence[str] = ()) -> Iterator[Self]:
        """Make the namespaces and wires. ``registries`` get addresses at the hub: ``hosts`` tells which."""
        with contextlib.ExitStack() as stack:
            hub = Namespace.here()
            stack.callback(hub.close)
            made = cls(hub)
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            ip("address", "add", f"{HUB}/32", "dev", "lo")
            for number, registry in enumerate(registries, 1):
                made.addresses[registry] = [f"10.78.0.{10 * number + host}" for host in range(3)]
                for address in made.addresses[registry]:
                    ip("address", "add", f"{address}/32", "dev", "lo")
            for number, node in enumerate(nodes, 1):
                made._attach(node, number, stack)
            yield made

    def hosts(self, registry: str) -> Mapping[str, str]:
        """Where a fake registry of that name is to listen."""
        return dict(zip(("index", "files", "elsewhere"), self.addresses[registry], strict=True))

    def address(self, node: str) -> str:
        return self.addresses[node][0]

    def run[**P, T](self, node: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call where ``node`` is: whatever it does to loopback, it does to the node's."""
        return self.nodes[node].run(call, *args, **kwargs)

    def named(self, address: str) -> str:
        """Whose address it is; empty if nobody's."""
        return next((name for name, addresses in self.addresses.items() if address in addresses), "")

    # -- what goes wrong

    def cut(self, one: str, other: str, how: Cut = "drop") -> None:
        """No packet passes between these two any more, in neither direction; connections that there are get to feel it too."""
        with self._lock:
            self._cuts[frozenset({one, other})] = how
            self._apply()

    def mend(self, one: str, other: str) -> None:
        with self._lock:
            self._cuts.pop(frozenset({one, other}), None)
            self._apply()

    def pull(self, node: str) -> None:
        """Take a node's wire out: nobody reaches it but who is on its own loopback."""
        self.hub.run(ip, "link", "set", self._wires[node], "down")

    def plug(self, node: str) -> None:
        self.hub.run(ip, "link", "set", self._wires[node], "up")

    def mend_all(self) -> None:
        with self._lock:
            self._cuts.clear()
            self._apply()
        for node in self.nodes:
            self.plug(node)

    def _attach(self, node: str, number: int, stack: contextlib.ExitStack) -> None:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        stack.callback(_end, holder)
        assert holder.stdout is not None
        holder.stdout.readline()
        there = Namespace.of(holder.pid)
        stack.callback(there.close)
        wire, end = f"hub{number}", f"node{number}"
        ip("link", "add", wire, "type", "veth", "peer", "name", end, "netns", str(holder.pid))
        ip("address", "add", f"10.78.{number}.1/24", "dev", wire)
        ip("link", "set", wire, "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"10.78.{number}.2/24", "dev", end],
            ["link", "set", end, "up"],
            ["route", "add", "default", "via", f"10.78.{number}.1"],
        ):
            there.run(ip, *words)
        self.nodes[node], self.addresses[node], self._wires[node] = there, [f"10.78.{number}.2"], wire

    def _apply(self) -> None:
        """Put all cuts in force, and no others, at once."""
        rules = []
        for pair, how in sorted(self._cuts.items(), key=lambda item: sorted(item[0])):
            one, other = sorted(pair)
            for left, right in ((one, other), (other, one)):
                match = f"ip saddr {{ {', '.join(self.addresses[left])} }} ip daddr {{ {', '.join(self.addresses[right])} }}"
                # The resets themselves must pass.
                rules.append(f"{match} drop" if how == "drop" else f"{match} tcp flags & rst == 0 reject with tcp reset")
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; {'; '.join(rules)}{';' if rules else ''} }}\n"
            for hook in ("input", "output", "forward")
        )
        # Declared, emptied and filled in one transaction: no packet passes between two states.
        text = f"table ip faults {{}}\ndelete table ip faults\ntable ip faults {{\n{chains}}}\n"
        self.hub.run(_nft, text)


def _nft(text: str) -> None:
    environ = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(["nft", "-f", "-"], input=text, text=True, env=environ, capture_output=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n{text}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
