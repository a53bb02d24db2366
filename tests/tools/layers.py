"""Plays events to the addon's layer in mitmproxy's own interpreter, without a network: one play a line of JSON in, what came of it out.

A play is ``{"orders": …, "to": [host, port], "transport": "tcp", "events": […]}``; each event is one of ``{"client": bytes}``,
``{"server": bytes}``, ``{"opened": null or why not}``, ``{"told": hosts}``, ``{"wakeup": null}``, ``{"closed": "client" or "server"}``.
The outcome is a list of what the layer wanted, the start's first: ``["open", "host:port"]``, ``["send", to whom, bytes]``,
``["close", whom]``, ``["wakeup", seconds]``, ``["ask", host]``, and of what it reported: ``["report", …]``. Bytes are spelled in Latin-1.
``{"quic": host}`` gives the datagrams of a ClientHello.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from mitmproxy import connection, options
from mitmproxy.proxy import commands, context, events

spec = importlib.util.spec_from_file_location("capture", sys.argv[1])
assert spec is not None
assert spec.loader is not None
capture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(capture)


def play(wanted: dict[str, Any]) -> list[list[Any]]:  # noqa: C901 -- two tables, spelled as code
    told, tell = os.pipe()
    capture.ORDERS.__init__()
    capture.ORDERS.follow(json.dumps({**wanted["orders"], "tell": tell}).encode())
    client = connection.Client(
        peername=("192.0.2.7", 5000),
        sockname=("127.0.0.1", 8082),
        timestamp_start=1,
        transport_protocol=wanted.get("transport", "tcp"),
    )
    client.state = connection.ConnectionState.OPEN
    around = context.Context(client, options.Options())
    around.server.address = tuple(wanted["to"])
    around.server.transport_protocol = client.transport_protocol
    layer = capture.Captured(around)
    done: list[list[Any]] = []
    pending: list[commands.OpenConnection] = []
    asked: list[commands.StartHook] = []

    def name(one: connection.Connection) -> str:
        if one is client:
            return "client"
        assert one.address is not None
        return f"{one.address[0]}:{one.address[1]}"

    def feed(event: events.Event) -> None:
        for command in layer.handle_event(event):
            if isinstance(command, commands.OpenConnection):
                pending.append(command)
                done.append(["open", name(command.connection)])
            elif isinstance(command, commands.SendData):
                done.append(["send", name(command.connection), command.data.decode("latin-1")])
            elif isinstance(command, commands.CloseTcpConnection) and command.half_close:
                done.append(["half-close", name(command.connection)])
            elif isinstance(command, commands.CloseConnection):
                command.connection.state = connection.ConnectionState.CLOSED
                done.append(["close", name(command.connection)])
            elif isinstance(command, commands.RequestWakeup):
                done.append(["wakeup", command.delay])
            elif isinstance(command, commands.StartHook):
                asked.append(command)
                done.append(["ask", *sorted(command.args()[0])])
            else:
                done.append(["other", repr(command)])

    feed(events.Start())
    for event in wanted["events"]:
        match event:
            case {"client": data}:
                feed(events.DataReceived(client, data.encode("latin-1")))
            case {"server": data}:
                feed(events.DataReceived(around.server, data.encode("latin-1")))
            case {"opened": error}:
                command = pending.pop(0)
                command.connection.timestamp_start = 1
                if error is None:
                    command.connection.state = connection.ConnectionState.OPEN
                feed(events.OpenConnectionCompleted(command, error))
            case {"told": hosts}:
                capture.ORDERS.follow(json.dumps({"hosts": hosts}).encode())
                feed(events.HookCompleted(asked.pop(0)))
            case {"wakeup": _}:
                feed(events.Wakeup(commands.RequestWakeup(0)))
            case {"closed": whom}:
                one = client if whom == "client" else around.server
                one.state &= ~connection.ConnectionState.CAN_READ
                feed(events.ConnectionClosed(one))
            case _:
                raise ValueError(event)
    os.close(tell)
    with os.fdopen(told, "rb") as reports:
        done += [["report", json.loads(line)] for line in reports]
    return done


def quic(host: str) -> list[str]:
    """The datagrams with which a client of QUIC begins."""
    client = QuicConnection(configuration=QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=host))
    client.connect(("192.0.2.1", 443), now=0)
    return [data.decode("latin-1") for data, _ in client.datagrams_to_send(now=0)]


for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps(quic(asked["quic"]) if "quic" in asked else play(asked)), flush=True)
