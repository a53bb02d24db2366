"""The server's smaller pure parts: codings, reason phrases, hosts."""

from __future__ import annotations

import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from origin.http.coding import encode, negotiate_coding, parse_quality_list
from origin.http.h1 import Malformed, parse_head
from origin.http.hosts import Hosts, Standing
from origin.http.limits import Limits
from origin.http.problems import problem, reason_phrase

OURS = ("zstd", "gzip")


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("identity", "identity"),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("gzip;q=0, zstd;q=0", "identity"),
        ("*", "zstd"),
        ("*;q=0.1, gzip", "gzip"),
        ("gzip;q=0, *", "zstd"),
        ("identity;q=1, gzip;q=0.5", "identity"),
        ("identity, gzip", "gzip"),
        ("identity;q=0", "identity"),
        ("*;q=0", "identity"),
        ("br", "identity"),
        ("gzip;q=2", "identity"),
        ("gzip;q=nan", "identity"),
        ("gzip ; q=0.8 , ,", "gzip"),
        (";;;,=,q=1", "identity"),
    ],
)
def test_the_coding_is_one_the_client_wants(accepted: str | None, coding: str) -> None:
    assert negotiate_coding(accepted, OURS) == coding


@given(st.text(max_size=60))
def test_any_text_gives_a_coding_we_have(accepted: str) -> None:
    assert negotiate_coding(accepted, OURS) in (*OURS, "identity")
    assert all(0 <= quality <= 1 for _, quality in parse_quality_list(accepted))


@given(st.binary(max_size=2000))
def test_a_coded_body_decodes_to_itself_and_is_always_the_same(body: bytes) -> None:
    assert encode(body, "identity") == body
    assert gzip.decompress(encode(body, "gzip")) == body
    assert zstandard.ZstdDecompressor().decompress(encode(body, "zstd"), max_output_size=4000) == body
    for coding in OURS:
        assert encode(body, coding) == encode(body, coding)


def test_quality_lists_keep_order_and_parameters() -> None:
    assert parse_quality_list("text/html;level=1; q=0.5 , Application/JSON") == [
        ("text/html;level=1", 0.5),
        ("application/json", 1.0),
    ]


@given(st.text(max_size=300))
def test_any_text_becomes_a_short_plain_reason(text: str) -> None:
    reason = reason_phrase(text)
    assert len(reason) <= 120
    assert reason.isascii()
    assert reason.isprintable()


def test_a_problem_tells_when_to_come_back() -> None:
    answer = problem(503, "Not available now", "The registry is silent.", retry_after_s=0.2, headers=[("X", "y")])
    assert answer.header("retry-after") == "1"
    assert answer.header("x") == "y"
    assert answer.reason == "The registry is silent."


def standing(hosts: Hosts, host: str, *lines: str, target: str = "/", trusted: bool = False) -> Standing:
    head = "".join(f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", f"Host: {host}", *lines, ""))
    return hosts.standing(parse_head(head.encode(), Limits()), "127.0.0.1", trusted)


def test_the_base_comes_from_the_closed_list_or_is_unlisted() -> None:
    hosts = Hosts()
    for address in ("localhost", "127.0.0.1", "::1"):
        hosts.own(address, 8080)
    hosts.own("localhost", 80)
    assert standing(hosts, "LocalHost:8080") == Standing("http://localhost:8080", True, "127.0.0.1")
    assert standing(hosts, "[::1]:8080").base == "http://[::1]:8080"
    assert standing(hosts, "localhost").base == standing(hosts, "localhost:80").base == "http://localhost"
    assert standing(hosts, "pypi.test:8080") == Standing("http://pypi.test:8080", False, "127.0.0.1")
    assert standing(hosts, "localhost:8081").listed is False


def test_public_urls_replace_our_own_addresses() -> None:
    hosts = Hosts(["https://edge.test/mirror/", "http://plain.test:8080"])
    assert not hosts.own("localhost", 8080)
    assert standing(hosts, "edge.test") == Standing("https://edge.test/mirror", True, "127.0.0.1")
    assert standing(hosts, "edge.test:443").listed
    assert standing(hosts, "plain.test:8080").base == "http://plain.test:8080"
    assert not standing(hosts, "localhost:8080").listed
    for wrong in ("edge.test", "ftp://edge.test", "https://", "https://a/?b"):
        with pytest.raises(ValueError, match="not a public URL"):
            Hosts([wrong])


def test_forwarded_fields_count_from_trusted_proxies() -> None:
    hosts = Hosts(["https://edge.test"], ["10.0.0.0/8", "127.0.0.1"])
    lines = ("X-Forwarded-Host: edge.test", "X-Forwarded-Proto: https", "X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.1.1.1")
    assert standing(hosts, "inner:1", *lines, trusted=True) == Standing("https://edge.test", True, "192.0.2.1")
    assert standing(hosts, "inner:1", *lines) == Standing("http://inner:1", False, "127.0.0.1")
    assert standing(hosts, "edge.test", "X-Forwarded-For: nonsense", trusted=True).client == "127.0.0.1"
    assert hosts.trusts("::ffff:10.1.2.3")
    assert not hosts.trusts("192.0.2.1")


@pytest.mark.parametrize(
    "host", ["a b", "a/b", "a@b", "", "a:b", "a:70000", "[::1", "[zz]", "[1.2.3.4]", "é", "-a", "a\\b", "a?b", "a%41"]
)
def test_an_invalid_host_is_refused(host: str) -> None:
    hosts = Hosts()
    with pytest.raises(Malformed):
        standing(hosts, host)
    if not set(host) & set("/?"):
        with pytest.raises(Malformed):
            standing(hosts, "fine.test", target=f"http://{host}/")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30))
def test_any_host_is_a_plain_authority_or_refused(host: str) -> None:
    try:
        base = standing(Hosts(), host).base
    except Malformed:
        return
    assert base.startswith("http://")
    assert not set(base.removeprefix("http://")) & set("/?#@\\ %")
