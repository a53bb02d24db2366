"""How commands reach a running node: a socket in its data directory, for its owner alone, speaking lines of JSON.

The command sends one line, ``{"command": "why", "arguments": {"purl": "…"}}``. The node answers with any number of
``{"progress": {…}}`` and then one ``{"result": …}`` or ``{"error": "a sentence"}``, and closes. A command whose caller leaves is
cancelled. ``edge/app.py`` says which commands there are.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import trio

from .errors import Corrupt, NotFound, Refused, Unavailable, Unusable

type Progress = Callable[[dict[str, object]], Awaitable[None]]
"""Tells the caller how far a command is."""

type Command = Callable[[dict[str, object], Progress], Awaitable[object]]
"""Does what a command asks: arguments in, something that becomes JSON out. Its own errors become a sentence for the caller."""

LINE_LIMIT_BYTES = 64 << 20
"""The longest command: lock files are sent whole. (Only the node's owner can send one.)"""

ANSWER_LIMIT_BYTES = 64 << 20
_SUN_PATH_BYTES = 107  # sockaddr_un.sun_path without its terminating NUL: unix(7)

_log = logging.getLogger(__name__)


class NotRunning(Exception):
    """No node listens on the control socket."""


class CommandFailed(Exception):
    """The node could not do it. The message is its sentence."""


class _Ask(msgspec.Struct):
    command: str
    arguments: dict[str, object] = msgspec.field(default_factory=dict)


async def serve_control(
    path: Path, commands: Mapping[str, Command], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer commands on the socket ``path`` (mode 0600) until cancelled, and then remove it.

    A socket that nobody listens on any more is replaced. Raises ``OSError`` with a sentence if another node listens there or the
    path cannot be used.
    """
    with _listening(path) as listening:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))

        async def serve(stream: trio.SocketStream) -> None:
            async with stream:
                await _serve_one(stream, commands)

        async with listener, trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve, [listener])
            task_status.started()


async def call(
    path: Path, command: str, arguments: dict[str, object], on_progress: Callable[[dict[str, object]], None] | None = None
) -> object:
    """Have the node that listens on ``path`` do ``command``; its result, as JSON values.

    Raises ``NotRunning`` if there is none, ``CommandFailed`` with the node's sentence.
    """
    stream = await _connect(path)
    async with stream:
        try:
            await stream.send_all(msgspec.json.encode(_Ask(command, arguments)) + b"\n")
            async with contextlib.aclosing(_lines(stream, ANSWER_LIMIT_BYTES)) as lines:
                async for line in lines:
                    answer = msgspec.json.decode(line, type=dict[str, object])
                    if "error" in answer:
                        raise CommandFailed(str(answer["error"]))
                    if "result" in answer:
                        return answer["result"]
                    progress = answer.get("progress")
                    if on_progress is not None and isinstance(progress, dict):
                        on_progress(progress)
        except (trio.BrokenResourceError, msgspec.DecodeError, ValueError):
            _log.debug("the node's answer ended", exc_info=True)
    raise CommandFailed("the node stopped before it had answered")


async def peer(path: Path) -> tuple[int, int]:
    """The process id and the user id of the node that listens on ``path``. Raises as ``call`` does. Linux only: unix(7), SO_PEERCRED."""
    async with await _connect(path) as stream:
        shape = struct.Struct("3i")
        credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, shape.size)
    pid, uid, _ = shape.unpack(credentials)
    return pid, uid


def sentence(error: Exception) -> str | None:
    """What to tell a person about an error that a command may end with; None for one that is a fault of the program."""
    match error:
        case Refused():
            return f"refused by rule {error.verdict.rule}: {error}"
        case NotFound() | Unavailable() | Corrupt() | Unusable() | ValueError():
            return str(error) or type(error).__name__
        case OSError():
            return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        case _:
            return None


# ---- the node's side ------------------------------------------------------------------------------------------------


async def _serve_one(stream: trio.SocketStream, commands: Mapping[str, Command]) -> None:
    async def progress(told: dict[str, object]) -> None:
        await stream.send_all(_answer({"progress": told}))

    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async with contextlib.aclosing(_lines(stream, LINE_LIMIT_BYTES)) as lines:
            answer: bytes | None = None
            async with trio.open_nursery() as nursery:
                try:
                    ask = msgspec.json.decode(await anext(lines), type=_Ask)
                except StopAsyncIteration:
                    return
                except (ValueError, msgspec.DecodeError) as error:
                    answer = _answer({"error": f"not a command: {error}"})
                else:
                    nursery.start_soon(_cancel_when_left, stream, nursery.cancel_scope)
                    answer = await _obey(ask, commands, progress)
                    nursery.cancel_scope.cancel()
            if answer is not None:
                await stream.send_all(answer)


async def _obey(ask: _Ask, commands: Mapping[str, Command], progress: Progress) -> bytes:
    command = commands.get(ask.command)
    if command is None:
        return _answer({"error": f"unknown command {ask.command[:32]!r}; this node knows {', '.join(sorted(commands))}"})
    try:
        return _answer({"result": await command(ask.arguments, progress)})
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise
    except Exception as error:  # noqa: BLE001  # whatever a command does, its caller is told and the node goes on
        told = sentence(error)
        if told is None:
            _log.exception("a command failed", extra={"command": ask.command})
            told = f"{ask.command} failed inside the node ({type(error).__name__}); its log says more"
        return _answer({"error": told})


def _answer(answer: dict[str, object]) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


async def _cancel_when_left(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """A caller has nothing more to say after its one line: the next thing to be read is its leaving."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some(4096):
            pass
    scope.cancel()


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening, _short(path) as address:
        _remove_stale(path, address)
        try:
            listening.bind(address)
        except OSError as error:
            raise OSError(error.errno, f"the control socket cannot be made: {error.strerror}", str(path)) from None
        try:
            # Between bind and listen nobody can connect, so there is no moment at which the socket is open to others.
            path.chmod(0o600)
            made = path.stat()
            listening.listen(16)
            listening.setblocking(False)
            yield listening
        finally:
            with contextlib.suppress(OSError):
                now = path.stat()
                if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
                    path.unlink()


def _remove_stale(path: Path, address: str) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(address)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                path.unlink(missing_ok=True)
                return
    raise OSError(errno.EADDRINUSE, "another node is running on this data directory and listens here", str(path))


# ---- the command's side ---------------------------------------------------------------------------------------------


async def _connect(path: Path) -> trio.SocketStream:
    made = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as address:
            await made.connect(address)
    except OSError as error:
        made.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            raise NotRunning(f"no edge or origin is running on {path.parent}") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise CommandFailed(f"the node on {path.parent} belongs to another user") from None
        raise CommandFailed(f"the node on {path.parent} cannot be reached: {error.strerror}") from None
    return trio.SocketStream(made)


# ---- both -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for the socket ``path`` that fits into ``sun_path`` however deep the data directory is."""
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield str(path)
        return
    # Linux: an open directory has a short name of its own. Elsewhere the kernel's complaint about the length stands.
    if not Path("/proc/self/fd").is_dir():
        told = f"a socket's path has at most {_SUN_PATH_BYTES} bytes; choose a shorter data directory"
        raise OSError(errno.ENAMETOOLONG, told, str(path))
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


async def _lines(stream: trio.SocketStream, limit_bytes: int) -> AsyncGenerator[bytes]:
    """The lines of ``stream``, without their ends. Raises ``ValueError`` for one that is too long."""
    held = bytearray()
    while received := await stream.receive_some(65536):
        searched = len(held)
        held += received
        while (end := held.find(b"\n", searched)) >= 0:
            line = bytes(held[:end])
            del held[: end + 1]
            searched = 0
            yield line
        if len(held) > limit_bytes:
            raise ValueError(f"a line of more than {limit_bytes} bytes")
