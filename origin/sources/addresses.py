"""Which addresses lead where: every spelling of one, the kind of network it belongs to, one look-up, and a race to connect.

A name that somebody else wrote must not lead into our own network: it is resolved once, *every* address is checked, and the connection is
made to a checked address, so that a second look-up cannot give another answer. ``connect.py`` does so for what registries send us to,
``tunnels.py`` for what clients of the proxy face ask for.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import trio

from .failures import NameFailure

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address
type Network = Literal["public", "private", "loopback", "metadata"]

METADATA = frozenset(
    ipaddress.ip_address(text)
    # Where cloud machines are told their credentials: AWS and most others, AWS over IPv6, Alibaba, Azure's agent.
    for text in ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200", "168.63.129.16")
)

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as IPv6-only networks write them. Source: RFC 6052 §2.1."""

WEB_PORTS = frozenset({80, 443})
"""The ports below 1024 that others may send us to. The rest belong to mail, names, shells …"""

GLOBAL = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that leads anywhere: the rest is local, retired (``fec0::``, ``::127.0.0.1``) or not given out. Source: RFC 4291 §2.4."""

STAGGER_S = 0.25
"""How much later than the one before the connection to a host's next address is tried. Source: RFC 8305 §5."""


def unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 address is a wrapping of (mapped, NAT64, 6to4, Teredo), else the address itself."""
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None) or address


def network_of(address: Address) -> Network:
    """Say to which kind of network an address belongs; wrapped IPv4 addresses are unwrapped first."""
    address = unwrapped(address)
    if address in METADATA or address.is_link_local:
        return "metadata"
    if address.is_loopback or address.is_unspecified:
        return "loopback"
    if address.is_global and not address.is_multicast and (address.version == 4 or address in GLOBAL):
        return "public"
    return "private"


def literal(host: str) -> Address | None:
    """The address that a URL's host spells, in any way a resolver would read it: ``127.1``, ``0x7f.1``, ``2130706433``. None for a name.

    ``localhost`` and what is below it count as what they always mean (RFC 6761 §6.3).
    """
    host = host.strip("[]").partition("%")[0].rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))  # only parses
    except (OSError, UnicodeError):
        return None


async def resolve(host: str, port: int) -> list[str]:
    """The host's addresses, in the system's order of preference. Raises ``NameFailure``."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NameFailure(error) from error
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    if not addresses:
        raise NameFailure("no address")
    return addresses


class Lookups:
    """Look-ups of names that clients choose, at most ``most`` at a time.

    The system's resolver cannot be told to stop: a look-up that nobody waits for any more still has one of the few threads (40) that all
    of the process shares. Here it counts until it has ended, so names that are never resolved delay no more than others like them.
    """

    def __init__(self, most: int = 16) -> None:
        self._free = trio.Semaphore(most)

    async def resolve(self, host: str, port: int) -> list[str]:
        """As ``resolve``; may wait for its turn. Raises ``NameFailure``."""
        ended = trio.Event()
        found: list[str] = []
        failure: NameFailure | None = None

        async def look_up() -> None:
            nonlocal found, failure
            try:
                found = await resolve(host, port)
            except NameFailure as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - nobody stands above this task, whom it could be told
                failure = NameFailure(error)
            finally:
                self._free.release()
                ended.set()

        await self._free.acquire()
        trio.lowlevel.spawn_system_task(look_up)
        await ended.wait()
        if failure is not None:
            raise failure
        return found


def parsed(text: str) -> Address:
    """An address as ``resolve`` gives it, perhaps with a zone."""
    return ipaddress.ip_address(text.partition("%")[0])


async def race[T](
    addresses: Sequence[str],
    connect: Callable[[str], Awaitable[T]],
    discard: Callable[[T], Awaitable[None]],
    losses: tuple[type[Exception], ...],
) -> T:
    """Try the addresses one a little after the other; the first connection wins. (RFC 8305, without its finer points.)

    ``discard`` closes one that came second. Raises the first of the ``losses`` if all are lost.
    """
    won: list[T] = []
    lost: list[Exception] = []
    failed = [trio.Event() for _ in addresses]

    async def attempt(number: int, scope: trio.CancelScope) -> None:
        if number:
            with trio.move_on_after(STAGGER_S):
                await failed[number - 1].wait()
        try:
            stream = await connect(addresses[number])
        except losses as error:
            lost.append(error)
            failed[number].set()
            return
        if won:
            await discard(stream)
            return
        won.append(stream)
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for number in range(len(addresses)):
                nursery.start_soon(attempt, number, nursery.cancel_scope)
    except BaseException:
        # Whoever asked has left, perhaps in the moment in which the connection was made.
        for stream in won:
            await discard(stream)
        raise
    if won:
        return won[0]
    raise lost[0]
