"""The network that the fleet is put into: who reaches whom, and what each way of cutting does."""

from __future__ import annotations

import errno
import socket
import time

import pytest

from tests.capture_stage import in_own_network
from tests.fakes import FakePyPI
from tests.faults.network import Network
from tests.harness import ask, wait_until


def reach(address: str, port: int, timeout_s: float = 0.5) -> str:
    """``open``, ``refused`` or ``silent``, or the error's name."""
    try:
        socket.create_connection((address, port), timeout_s).close()
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "open"


@in_own_network
def test_nodes_reach_each_other_and_the_registries_until_they_are_cut() -> None:
    with Network.start("a", "b", registries=["pypi"]) as network, FakePyPI.start(hosts=network.hosts("pypi")) as fake:
        listener = network.run("b", socket.create_server, (network.address("b"), 9000))
        with listener:

            def both() -> tuple[str, str]:
                return network.run("a", reach, network.address("b"), 9000), network.run("a", reach, *registry)

            registry = (fake.hosts["index"], fake.ports["index"])
            assert both() == ("open", "open")
            network.cut("a", "b")
            assert both() == ("silent", "open")
            network.cut("a", "pypi", "refuse")
            assert both() == ("silent", "refused")
            assert network.run("b", reach, *registry) == "open"
            network.mend("a", "b")
            assert both() == ("open", "refused")
            network.pull("b")
            assert both()[0] in {"silent", "ENETUNREACH", "EHOSTUNREACH"}
            network.mend_all()
            # A neighbour that was gone is looked for again once in a second.
            wait_until(lambda: both() == ("open", "open"), 10)
        assert network.run("a", ask, f"{fake.index_url}six/").status == 404
        [seen] = fake.seen(path="/simple/six/")
        assert network.named(seen.peer) == "a"


@in_own_network
def test_a_cut_is_felt_by_connections_that_there_are() -> None:
    with Network.start("a", "b") as network:
        listener = network.run("b", socket.create_server, (network.address("b"), 9000))
        caller = network.run("a", socket.create_connection, (network.address("b"), 9000))
        accepted, _ = listener.accept()
        with listener, caller, accepted:
            caller.settimeout(0.3)
            network.cut("a", "b")
            accepted.sendall(b"lost for now")
            with pytest.raises(TimeoutError):
                caller.recv(100)
            network.mend("a", "b")
            caller.settimeout(20)
            began = time.monotonic()
            assert caller.recv(100) == b"lost for now"
            print(f"arrived {time.monotonic() - began:.2f} s after the cut")
