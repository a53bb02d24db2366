"""The only answer on a connection: its head tells the client that it is the last, however it comes and whatever it says itself."""

from __future__ import annotations

import pytest

from origin.http.splice import LastHead


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x\r\nKeep-Alive: timeout=9\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
        ),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\nconnection :\r\n keep-alive\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        ),
        (b"HTTP/1.0 200\nX: 1\n\nall\r\n\r\n", b"HTTP/1.0 200\r\nX: 1\r\nConnection: close\r\n\r\nall\r\n\r\n"),
    ],
    ids=["kept alive", "early", "bare lines"],
)
def test_no_site_can_keep_a_client_on_the_connection_to_answer_for_another_one(
    said: bytes, heard: bytes, piece_bytes: int
) -> None:
    """A client that asks several plain sites through one connection would take a second answer for that of the next site."""
    head = LastHead()
    assert b"".join(head.feed(said[at : at + piece_bytes]) for at in range(0, len(said), piece_bytes)) == heard
    assert head.is_whole


@pytest.mark.parametrize("said", [b"SSH-2.0-x\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000])
def test_what_is_no_answer_goes_no_further(said: bytes) -> None:
    with pytest.raises(ConnectionAbortedError):
        LastHead().feed(said)
