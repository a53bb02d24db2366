"""Path tricks, malformed and smuggled requests: refused here, and nothing of them reaches the registry."""

from __future__ import annotations

import re

import pytest

from tests.fakes import FakePyPI
from tests.harness import Edge, send_raw
from tests.wheels import Shelf

TRICKS = [
    "/pypi/simple/../../etc/passwd",
    "/pypi/simple/..%2f..%2fetc%2fpasswd/",
    "/pypi/simple/%2e%2e/%2e%2e/secret/",
    "/pypi/simple/%2e/",
    "/pypi/simple/%252e%252e/",
    "/pypi/simple/%252f/",
    "/pypi/simple/a%2fb/",
    "/pypi/simple/a%00b/",
    "/pypi/simple/a%0d%0aX-Evil:1/",
    "/pypi/simple/a\\b/",
    "/pypi/simple/a%5cb/",
    "/pypi/simple//",
    "/pypi/simple/six//",
    "/pypi//simple/six/",
    "/pypi/simple/%zz/",
    "/pypi/simple/%/",
    "/pypi/simple/%ff/",
    "/pypi/simple/%c3%a9t%c3%a9/",
    "/pypi/simple/-six/",
    "/pypi/simple/six-/",
    "/pypi/simple/.six/",
    "/pypi/simple/s%20x/",
    "/pypi/simple/six;x=1/",
    "/pypi/simple/" + "a" * 300 + "/",
    "/pypi/simple/six/extra/",
    "/pypi/packages/../packages/00/00/x/y.whl",
    "/pypi/packages/00/00/" + "0" * 60 + "/..%2f..%2fx.whl",
    "/pypi/packages/00/00/" + "0" * 60 + "/" + "x" * 300 + "-1.0-py3-none-any.whl",
    "/pypi/packages/00/00/" + "0" * 59 + "/six-1.0-py3-none-any.whl",
    "/pypi/packages/zz/00/" + "0" * 60 + "/six-1.0-py3-none-any.whl",
    "/pypi/packages/00/00/" + "0" * 60 + "/.metadata",
    "/pypi/packages/00/00/" + "0" * 60 + "/",
    "/pypi/packages/",
    "/pypi/integrity/six/1.0/..%2f..%2fx/provenance",
    "/pypi/integrity/../../x/provenance",
    "/pypi/pypi/../json",
    "/pypi/pypi/six/..%2fx/json",
    "/pypi/etc/passwd",
    "/etc/passwd",
    "//pypi/simple/six/",
    "/../pypi/simple/six/",
    "/%2e%2e/pypi/simple/six/",
    "/-/../pypi/simple/six/",
    "/-/why/%2e%2e",
]


@pytest.fixture(autouse=True)
def published(fake: FakePyPI, shelf: Shelf) -> None:
    fake.publish(shelf.wheel("six", "1.0"))
    fake.forget()


@pytest.mark.parametrize("target", TRICKS, ids=range(len(TRICKS)))
def test_a_path_trick_is_refused_without_asking_upstream(fake: FakePyPI, edge: Edge, target: str) -> None:
    answer = send_raw(edge.url, f"GET {target} HTTP/1.1\r\nHost: {edge.url[7:]}\r\nConnection: close\r\n\r\n".encode())
    status = int(answer.split()[1])
    assert status in {301, 302, 308, 400, 403, 404, 414}, answer[:200]
    assert b"root:" not in answer
    for seen in fake.seen():
        assert re.fullmatch(r"/simple/[a-z0-9-]+/", seen.path), seen.path
    assert edge.page("six").status == 200


MALFORMED = {
    "no version": b"GET /pypi/simple/six/\r\n\r\n",
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "two lengths": b"GET /-/live HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "length and chunked": (
        b"POST /pypi/legacy/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /pypi/simple/smuggled/ HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ),
    "chunked twice": (
        b"POST /pypi/legacy/ HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"
        b"0\r\n\r\nGET /pypi/simple/smuggled/ HTTP/1.1\r\nHost: {host}\r\n\r\n"
    ),
    "space before colon": b"GET /-/live HTTP/1.1\r\nHost: {host}\r\nContent-Length : 5\r\n\r\nhello",
    "folded line": b"GET /-/live HTTP/1.1\r\nHost: {host}\r\nX-A: 1\r\n 2\r\n\r\n",
    "negative length": b"GET /-/live HTTP/1.1\r\nHost: {host}\r\nContent-Length: -5\r\n\r\n",
    "plus length": b"POST /pypi/legacy/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: +5\r\n\r\nhello",
    "no host": b"GET /pypi/simple/six/ HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /pypi/simple/six/ HTTP/1.1\r\nHost: {host}\r\nHost: attacker.test\r\n\r\n",
    "nul in header": b"GET /-/live HTTP/1.1\r\nHost: {host}\r\nX-A: a\x00b\r\n\r\n",
    "control in target": b"GET /pypi/simple/\x01six/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "space in target": b"GET /pypi/simple/six/ /x HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "bad chunk": b"POST /pypi/legacy/ HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "huge header": b"GET /-/live HTTP/1.1\r\nHost: {host}\r\nX-A: " + b"a" * 300_000 + b"\r\n\r\n",
    "many headers": b"GET /-/live HTTP/1.1\r\nHost: {host}\r\n" + b"X-A: b\r\n" * 30_000 + b"\r\n",
    "huge target": b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "huge body": b"POST /pypi/legacy/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99999999999\r\n\r\n",
    "version 2": b"GET /-/live HTTP/2.0\r\nHost: {host}\r\n\r\n",
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "odd method": b"G@T /-/live HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "trace": b"TRACE /pypi/simple/six/ HTTP/1.1\r\nHost: {host}\r\n\r\n",
    "connect": b"CONNECT 127.0.0.1 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_gets_one_refusal_and_nothing_else(fake: FakePyPI, edge: Edge, request_bytes: bytes) -> None:
    answer = send_raw(edge.url, request_bytes.replace(b"{host}", edge.url[7:].encode()), timeout_s=3)
    statuses = re.findall(rb"^HTTP/1\.1 (\d{3})", answer, re.MULTILINE)
    assert len(statuses) <= 1, answer[:400]
    assert not statuses or 400 <= int(statuses[0]) <= 505, answer[:400]
    assert b" 500 " not in answer.partition(b"\r\n")[0]
    assert fake.count(path="*smuggled*") == 0
    assert edge.ask("/-/live").status == 200


def test_pipelined_requests_are_answered_in_order(fake: FakePyPI, edge: Edge) -> None:
    host = edge.url[7:]
    wanted = ["/-/live", "/pypi/simple/six/", "/pypi/simple/nothing-here/", "/-/live"]
    requests = "".join(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n" for target in wanted)
    requests += f"GET /-/live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    answer = send_raw(edge.url, requests.encode())
    assert re.findall(rb"HTTP/1\.1 (\d{3})", answer) == [b"200", b"200", b"404", b"200", b"200"]


def test_what_a_client_carries_never_reaches_upstream(fake: FakePyPI, edge: Edge, shelf: Shelf, project: str) -> None:
    wheel = shelf.wheel(project, "1.0")
    fake.publish(wheel)
    carried = {
        "Authorization": "Basic Y2xpZW50OnNlY3JldA==",
        "Cookie": "session=client-secret",
        "Proxy-Authorization": "Basic Y2xpZW50OnNlY3JldA==",
        "X-Forwarded-For": "203.0.113.9",
        "X-Client-Header": "client-secret",
        "User-Agent": 'pip/99 {"user_data": "client-secret"}',
        "Referer": "http://client-secret.test/",
    }
    assert edge.ask(f"/pypi/simple/{project}/", carried).status == 200
    assert edge.ask(edge.file_path(wheel), carried).status == 200
    assert edge.ask(edge.file_path(wheel) + ".metadata", carried).status == 200
    seen = fake.seen(path=f"*{project}*") + fake.seen(path=f"*{wheel.filename}*")
    assert seen
    for request in seen:
        text = repr(request.headers).lower()
        assert "secret" not in text
        assert "y2xpzw50" not in text
        assert "203.0.113.9" not in text
        assert request.header("user-agent"), "upstream is told who asks"


def test_a_connection_that_says_nothing_harms_nobody(edge: Edge) -> None:
    assert send_raw(edge.url, b"", timeout_s=0.2) == b""
    assert send_raw(edge.url, b"GET /-/live HT", timeout_s=0.2) == b""
    assert edge.ask("/-/live").status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST", "OPTIONS"])
def test_other_methods_are_refused(fake: FakePyPI, edge: Edge, method: str) -> None:
    reply = edge.ask("/pypi/simple/six/", {"Content-Length": "0"}, method)
    assert reply.status in {403, 405}
    assert edge.ask("/-/live", {"Content-Length": "0"}, method).status in {403, 405}
    assert fake.seen() == []


def test_a_request_that_has_been_here_before_is_a_loop(fake: FakePyPI, edge: Edge, project: str) -> None:
    edge.page(project)
    (seen,) = fake.seen(path=f"*{project}*")
    loop = seen.header("cdn-loop") or seen.header("via")
    assert loop is not None
    name = "CDN-Loop" if seen.header("cdn-loop") else "Via"
    assert edge.ask(f"/pypi/simple/{project}/", {name: loop}).status == 508
