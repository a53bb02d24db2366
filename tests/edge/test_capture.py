"""What ``edge capture`` makes of its arguments and of this machine, and what its addon makes of connections, without a network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge import capture_command, capturing
from edge.__main__ import main
from edge.settings import EdgeSettings, ProxySettings
from origin.errors import Unusable

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".tools" / "capture" / "bin" / "python"

ORIGINAL = "192.0.2.1"
EDGE = "127.0.0.1:8080"
SECURE = [ORIGINAL, 443]
ORDERS: dict[str, object] = {"edge": ["127.0.0.1", 8080], "hosts": ["pypi.test", "Files.PyPI.test."], "ports": None}

type Play = list[list[Any]]


class Addon:
    """The addon in mitmproxy's interpreter."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def play(self, to: Sequence[object], *events: Mapping[str, object], transport: str = "tcp", **orders: object) -> Play:
        spelled = [{what: spell(value) for what, value in event.items()} for event in events]
        played: Play = self.ask({"orders": ORDERS | orders, "to": to, "transport": transport, "events": spelled})
        return played


def spell(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value


@pytest.fixture(scope="module")
def addon() -> Iterator[Addon]:
    command = [str(PYTHON), str(ROOT / "tests" / "tools" / "layers.py"), str(capturing.ADDON)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Addon(process)
        assert process.stdin is not None
        process.stdin.close()


def hello(host: str | None) -> bytes:
    """A ClientHello for ``host``, as Python's ssl makes it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


def text(data: bytes) -> str:
    return data.decode("latin-1")


CONNECT = "CONNECT pypi.test:443 HTTP/1.1\r\nHost: pypi.test:443\r\n\r\n"
JOINED = {"server": b"HTTP/1.1 200 Connection established\r\n\r\n"}


# ---- what becomes of a connection ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pypi.test", "PyPI.test", "files.pypi.test"])
def test_a_registrys_connection_goes_to_the_edge_as_to_a_proxy_and_not_a_byte_to_where_it_was_going(
    addon: Addon, name: str
) -> None:
    said = hello(name)
    asked = CONNECT.replace("pypi.test", name.lower())
    assert addon.play(SECURE, {"client": said}, {"opened": None}, JOINED, {"server": b"certificate"}, {"client": b"key"}) == [
        ["open", EDGE],
        ["send", EDGE, asked],
        ["send", EDGE, text(said)],
        ["send", "client", "certificate"],
        ["send", EDGE, "key"],
        ["report", {"what": "handed", "host": name.lower()}],
    ]


def test_any_other_connection_goes_where_it_was_going_byte_for_byte(addon: Addon) -> None:
    said = hello("elsewhere.test")
    assert addon.play(SECURE, {"client": said}, {"opened": None}, {"server": b"certificate"}, {"closed": "client"}) == [
        ["open", f"{ORIGINAL}:443"],
        ["send", f"{ORIGINAL}:443", text(said)],
        ["send", "client", "certificate"],
        ["half-close", f"{ORIGINAL}:443"],
    ]


@pytest.mark.parametrize(
    "said",
    [
        hello(None),
        b"\x16\x03\x01\x00\x05garbage",
        b"\x16\x03\x01\x00\x06\x01\x00\x00\x02zz",
        b"\x00\x01\x02",
        b"SSH-2.0-client\r\n",
    ],
)
def test_what_names_no_host_goes_where_it_was_going(addon: Addon, said: bytes) -> None:
    assert addon.play(SECURE, {"client": said}, {"opened": None})[-1] == ["send", f"{ORIGINAL}:443", text(said)]


def test_a_hello_with_a_byte_changed_breaks_nothing(addon: Addon) -> None:
    said = bytearray(hello("pypi.test"))
    for place in range(0, len(said), 5):
        changed = bytes([*said[:place], said[place] ^ 0x55, *said[place + 1 :]])
        assert all(what != "other" for what, *_ in addon.play(SECURE, {"client": changed}))


def test_nothing_is_dialled_before_a_hello_that_comes_in_pieces_is_whole(addon: Addon) -> None:
    said = hello("pypi.test")
    pieces = [{"client": bytes([byte])} for byte in said]
    assert addon.play(SECURE, *pieces[:-1]) == []
    assert addon.play(SECURE, *pieces, {"opened": None}, JOINED)[-2:] == [
        ["send", EDGE, text(said)],
        ["report", {"what": "handed", "host": "pypi.test"}],
    ]


def test_what_a_client_says_while_the_edge_is_asked_is_kept_in_order(addon: Addon) -> None:
    said = hello("pypi.test")
    played = addon.play(SECURE, {"client": said[:200]}, {"client": said[200:]}, {"opened": None}, {"client": b"more"}, JOINED)
    assert played[2] == ["send", EDGE, text(said + b"more")]


def test_an_answer_to_connect_may_come_in_pieces_and_with_more_behind_it(addon: Addon) -> None:
    pieces = [{"server": b"HTTP/1.1 200 OK\r\nX: y\r\n"}, {"server": b"\r\nhello"}]
    assert ["send", "client", "hello"] in addon.play(SECURE, {"client": hello("pypi.test")}, {"opened": None}, *pieces)


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([{"opened": "Connection refused"}], "cannot be reached (Connection refused)"),
        (
            [{"opened": None}, {"server": b"HTTP/1.1 407 Proxy authentication required\r\n\r\n"}],
            "refused it: HTTP/1.1 407 Proxy auth",
        ),
        ([{"opened": None}, {"server": b"HTTP/1.1 503 Service Unavailable\r\n\r\n"}], "refused it: HTTP/1.1 503"),
        ([{"opened": None}, {"server": b"x" * 20000}], "is no edge"),
        ([{"opened": None}, {"server": b"SSH-2.0-server\r\n\r\n"}], "refused it: SSH"),
        ([{"opened": None}, {"closed": "server"}], "closed the connection"),
    ],
)
def test_without_the_edge_a_registrys_connection_is_closed_and_never_goes_past_it(
    addon: Addon, events: list[dict[str, object]], told: str
) -> None:
    played = addon.play(SECURE, {"client": hello("pypi.test")}, *events)
    assert ["close", "client"] in played
    assert [which for what, which, *_ in played if what == "open"] == [EDGE]
    (report,) = [report for what, report, *_ in played if what == "report"]
    assert report["what"] == "trouble"
    assert report["host"] == "pypi.test"
    assert told in report["text"]


def test_the_edge_is_told_who_asks(addon: Addon) -> None:
    played = addon.play(SECURE, {"client": hello("pypi.test")}, {"opened": None}, authorization="Basic eDp5")
    assert played[1] == ["send", EDGE, CONNECT[:-2] + "Proxy-Authorization: Basic eDp5\r\n\r\n"]


def test_an_unknown_host_is_asked_about_first_because_it_may_have_become_a_registrys_just_now(addon: Addon) -> None:
    said = hello("new.pypi.test")
    found = addon.play(SECURE, {"client": said}, {"told": ["pypi.test", "new.pypi.test"]}, {"opened": None}, JOINED, asks=True)
    assert found[0] == ["ask", "new.pypi.test"]
    assert ["send", EDGE, text(said)] in found
    other = addon.play(SECURE, {"client": said}, {"told": ["pypi.test"]}, {"opened": None}, asks=True)
    assert other == [["ask", "new.pypi.test"], ["open", f"{ORIGINAL}:443"], ["send", f"{ORIGINAL}:443", text(said)]]
    assert addon.play(SECURE, {"client": hello("pypi.test")}, asks=True)[0] == ["open", EDGE], "a known one needs no word"


# ---- plain HTTP ------------------------------------------------------------------------------------------------------


def test_a_plain_request_to_a_registry_is_sent_to_the_edge_in_absolute_form_and_no_other_behind_it(addon: Addon) -> None:
    said = b"GET /simple/six/?x=1 HTTP/1.1\r\nHost: pypi.test\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\nbody"
    sent = "GET http://pypi.test/simple/six/?x=1 HTTP/1.1\r\nHost: pypi.test\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    assert addon.play([ORIGINAL, 80], {"client": said[:9]}, {"client": said[9:]}, {"opened": None}) == [
        ["open", EDGE],
        ["send", EDGE, sent],
        ["send", EDGE, "body"],
        ["report", {"what": "handed", "host": "pypi.test"}],
    ]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: pypi.test\r\nHost: elsewhere.test\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: pypi.test\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: pypi.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: pypi.test\r\nX: " + b"x" * 70000,
    ],
)
def test_a_muddled_request_that_names_a_registry_goes_nowhere(addon: Addon, said: bytes) -> None:
    played = addon.play([ORIGINAL, 80], {"client": said})
    assert [what for what, *_ in played] == ["close", "report"]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"CONNECT pypi.test:443 HTTP/1.1\r\nHost: pypi.test:443\r\n\r\n",
        b"GET http://pypi.test/ HTTP/1.1\r\nHost: pypi.test\r\n\r\n",
    ],
)
def test_a_plain_request_to_others_and_one_to_another_proxy_go_where_they_were_going(addon: Addon, said: bytes) -> None:
    assert addon.play([ORIGINAL, 80], {"client": said}, {"opened": None}) == [
        ["open", f"{ORIGINAL}:80"],
        ["send", f"{ORIGINAL}:80", text(said)],
    ]


# ---- who speaks first ------------------------------------------------------------------------------------------------


def test_a_server_that_speaks_first_is_let_speak_when_the_client_is_silent(addon: Addon) -> None:
    assert addon.play(
        [ORIGINAL, 22], {"wakeup": None}, {"opened": None}, {"server": b"SSH-2.0\r\n"}, {"client": b"SSH-2.0\r\n"}
    ) == [
        ["wakeup", 0.5],
        ["open", f"{ORIGINAL}:22"],
        ["send", "client", "SSH-2.0\r\n"],
        ["send", f"{ORIGINAL}:22", "SSH-2.0\r\n"],
    ]


def test_a_registrys_client_that_is_slow_to_speak_comes_to_the_edge_all_the_same(addon: Addon) -> None:
    original = f"{ORIGINAL}:8443"
    said = hello("pypi.test")
    played = addon.play([ORIGINAL, 8443], {"wakeup": None}, {"opened": None}, {"client": said}, {"opened": None}, JOINED)
    assert ["send", EDGE, text(said)] in played
    assert ["close", original] in played
    assert not [step for step in played if step[:2] == ["send", original]]


def test_on_ports_without_a_greeting_a_silent_client_dials_nobody(addon: Addon) -> None:
    assert addon.play(SECURE, {"closed": "client"}) == [["close", "client"]]


def test_half_a_hello_is_waited_for_however_long_it_takes(addon: Addon) -> None:
    assert ["send", f"{ORIGINAL}:8443", "abc"] in addon.play(
        [ORIGINAL, 8443], {"client": b"abc"}, {"wakeup": None}, {"opened": None}
    )
    played = addon.play([ORIGINAL, 8443], {"client": hello("pypi.test")[:100]}, {"wakeup": None}, {"opened": None})
    assert [what for what, *_ in played] == ["wakeup", "open"]


# ---- circles ---------------------------------------------------------------------------------------------------------


def test_nobody_is_passed_on_who_was_not_sent_here_by_the_rules(addon: Addon) -> None:
    assert addon.play([ORIGINAL, 8082], ports=[80, 443]) == [["close", "client"]]


def test_connections_to_the_edge_itself_are_left_alone(addon: Addon) -> None:
    said = b"GET / HTTP/1.1\r\nHost: pypi.test\r\n\r\n"
    assert addon.play(["127.0.0.1", 8080], {"opened": None}, {"client": said})[-1] == ["send", EDGE, text(said)]


def test_quic_to_a_registry_is_not_answered_and_other_datagrams_are_passed_on(addon: Addon) -> None:
    datagrams = [{"client": datagram} for datagram in addon.ask({"quic": "pypi.test"})]
    played = addon.play(SECURE, *datagrams, transport="udp")
    assert played[0] == ["close", "client"]
    assert not [step for step in played if step[0] == "open"]
    others = [{"client": datagram} for datagram in addon.ask({"quic": "elsewhere.test"})]
    assert [what for what, *_ in addon.play(SECURE, *others, {"opened": None}, transport="udp")] == [
        "open",
        *["send"] * len(others),
    ]
    name = addon.play([ORIGINAL, 53], {"client": b"\x00\x01question"}, {"opened": None}, {"server": b"answer"}, transport="udp")
    assert name[1:] == [["send", f"{ORIGINAL}:53", "\x00\x01question"], ["send", "client", "answer"]]


# ---- what is asked for -----------------------------------------------------------------------------------------------


def test_modes_are_read_strictly() -> None:
    assert capturing.read_mode("local:pip,4711") == ("local", ("pip", "4711"))
    assert capturing.read_mode("transparent") == ("transparent", ())
    for wrong in ("", "local:", "local:pip,", "local:!pip", "transparent:x", "wireguard"):
        with pytest.raises(ValueError, match="not a mode|not names"):
            capturing.read_mode(wrong)


def test_an_edge_that_asks_who_it_is_is_told_as_its_own_settings_say() -> None:
    settings = EdgeSettings(data=Path("/d"), proxy=ProxySettings(users={"ann": "s3cret"}))
    assert capture_command._ours(settings) == (("127.0.0.1", 8080), "Basic YW5uOnMzY3JldA==")
    assert capture_command._ours(EdgeSettings(data=Path("/d"))) == (("127.0.0.1", 8080), "")


def test_an_edges_address_may_carry_who_asks() -> None:
    assert capturing.read_url("http://x:%79@edge.test:8080/") == (("edge.test", 8080), "Basic eDp5")
    for wrong in ("https://edge.test", "edge.test:8080", "http://edge.test/pypi/"):
        with pytest.raises(ValueError, match="not the address of an edge"):
            capturing.read_url(wrong)
    assert "eDp5" not in repr(wanted(authorization="Basic eDp5"))


def wanted(**arguments: Any) -> capturing.Wanted:
    given: dict[str, Any] = {"mode": "transparent", "mitmdump": Path("mitmdump"), "edge": ("127.0.0.1", 8080), "asked": None}
    return capturing.Wanted(**given | arguments)


def test_the_edge_is_left_out_of_local_mode_and_ourselves_are_in_it_to_see_that_it_works() -> None:
    assert capturing.local_mode((), 10, 20, edge_is_named=False) == "local:!20,10"
    assert capturing.local_mode((), 10, 20, edge_is_named=True) == "local:!20,!edge,10"
    assert capturing.local_mode(("pip", "uv"), 10, 20, edge_is_named=True) == "local:pip,uv,!20,!edge,10"
    assert capturing.local_mode((), 10, None, edge_is_named=False) == "local"
    assert capturing.local_mode(("pip",), 10, None, edge_is_named=False) == "local:pip,10"


def test_rules_spare_users_and_this_machine_and_take_others_only_from_named_interfaces() -> None:
    own = capturing.rules(wanted(), [0, 997], ipv6=True)
    assert "add rule inet leeward_capture output meta skuid { 0, 997 } accept" in own
    assert own[-1] == "add rule inet leeward_capture output tcp dport { 80, 443 } redirect to :8082"
    assert not any("prerouting" in line for line in own)
    others = capturing.rules(wanted(interfaces=("docker0",), port=9000, ports=(443,)), [0], ipv6=False)
    assert others[-1] == (
        'add rule inet leeward_capture prerouting iifname { "docker0" } meta nfproto ipv4 tcp dport { 443 } redirect to :9000'
    )


def test_the_redirectors_own_words_become_one_line() -> None:
    said = ["[10:00:00.1] [12] FUNC main type_id=1", "[10:00:00.1] Error: eBPF initialization failed", "[10:00:00.1] Caused by:"]
    said += ["[10:00:00.1]     0: failed to attach", "[10:00:00.2]     1: Bad file descriptor", "[10:00:00.2]    0: <unknown>"]
    assert capturing.reason(said) == "failed to attach: Bad file descriptor"
    assert capturing.reason(["[10:00:00.1] no such option", ""]) == "no such option"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Mitmproxy: 11.0.2\nPython: 3.11", "too old: 11.0"),
        ("hello", "does not say its version"),
        ("Mitmproxy: 12.1.0", "too old: 12.1"),
    ],
)
def test_a_mitmproxy_that_is_too_old_or_none_is_told_so(said: str, why: str) -> None:
    with pytest.raises(Unusable, match=why):
        capturing.check_version(said)
    capturing.check_version("Mitmproxy: 12.2.3\n")
    capturing.check_version("Mitmproxy: 13.0.0\n")


def test_mitmproxy_is_found_as_named_then_by_variable(tmp_path: Path) -> None:
    program = tmp_path / "mitmdump"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert capturing.find_mitmdump(str(program), {"EDGE_MITMDUMP": "/nowhere"}) == program
    assert capturing.find_mitmdump(None, {"EDGE_MITMDUMP": str(program)}) == program
    with pytest.raises(Unusable, match="there is no mitmdump at /nowhere"):
        capturing.find_mitmdump(None, {"EDGE_MITMDUMP": "/nowhere"})


def test_what_to_install_is_said_where_there_is_no_mitmproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(capturing, "ADDON", tmp_path / "edge" / "capture.py")
    with pytest.raises(Unusable, match="mitmproxy is missing: install it in an environment of its own"):
        capturing.find_mitmdump(None, {"PATH": str(tmp_path)})
    program = tmp_path / "mitmdump"
    shutil.copy("/bin/true", program)
    assert capturing.find_mitmdump(None, {"PATH": "/nowhere"}) == program, "beside the interpreter"


# ---- errors, as a person sees them -----------------------------------------------------------------------------------


def command(tmp_path: Path, *arguments: str) -> list[str]:
    return ["capture", "--data", str(tmp_path), "--mitmdump", str(PYTHON.with_name("mitmdump")), *arguments]


@pytest.fixture(autouse=True)
def nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EDGE_")]:
        monkeypatch.delenv(name)
    empty = tmp_path / "edge.toml"
    empty.write_text("")
    monkeypatch.setenv("EDGE_CONFIG", str(empty))


def test_without_a_running_edge_nothing_is_captured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, "--mode", "transparent")) == 1
    assert capsys.readouterr().err == f"edge: no edge or origin is running on {tmp_path}\n"


@pytest.mark.parametrize("arguments", [["--mode", "local"], ["--mode", "transparent", "--install-rules"]])
def test_without_privileges_a_sentence_says_so(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(command(tmp_path, *arguments)) == 1
    assert "needs the privileges of root; start edge capture with sudo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode", "nonsense"],
        ["--mode", "local", "--ports", "0"],
        ["--mode", "local", "--url", "ftp://x"],
        ["--mode", "local", "--hosts", "a b"],
    ],
)
def test_what_is_asked_wrongly_is_a_matter_of_usage(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, *arguments)) == 2
    assert capsys.readouterr().err.startswith("edge: not ")


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["--mode", "transparent", "--port", port, "--url", "http://127.0.0.1:9", "--hosts", "pypi.test"]
        assert main(command(tmp_path, *words)) == 1
    assert capsys.readouterr().err.endswith(f"edge: port {port} is taken; choose another with --port\n")


def test_a_program_that_is_no_mitmproxy_is_told_from_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--mode", "transparent", "--url", "http://127.0.0.1:9", "--hosts", "pypi.test", "--mitmdump", "/bin/true"]
    assert main(command(tmp_path, *words)) == 1
    assert capsys.readouterr().err.endswith("edge: what was found as mitmdump does not say its version\n")


def test_nft_has_answered_when_the_line_with_its_reason_has_ended() -> None:
    """It writes "Error: " and the reason in pieces; read by halves, a table that is another's passed for a kernel that takes no rules."""
    said = b"Error: Could not process rule: Operation not permitted\nadd table inet leeward_capture { flags owner; }\n"
    assert not capturing.rules_answered(said[: len("Error: ")])
    assert not capturing.rules_answered(said[: said.index(b"\n")])
    assert capturing.rules_answered(said[: said.index(b"\n") + 1])
    assert "does another edge capture run here?" in capturing.rules_refused(said.decode())
    assert not capturing.rules_answered(b"table inet leeward_capture {\n\tflags owner\n")
    assert capturing.rules_answered(b"table inet leeward_capture {\n\tflags owner\n}\n")
