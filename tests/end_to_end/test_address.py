"""Where an edge listens may stand in no settings file: the one that runs is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import REFUSING, Edge


@pytest.mark.parametrize(
    ("proxy", "expected"), [((), "http://127.0.0.1:{port}/pypi/simple/"), (("--proxy",), "http://127.0.0.1:{port}")]
)
def test_clients_are_pointed_at_the_edge_that_runs(tmp_path: Path, proxy: tuple[str, ...], expected: str) -> None:
    with Edge(tmp_path, f"http://127.0.0.1:{REFUSING}/simple/") as edge:
        edge.root_certificate()
        told = edge.command("use", *proxy, "pip", "--print")
        assert told.returncode == 0, told.stderr
        assert f"= {expected.format(port=edge.port)}\n" in told.stdout
        assert f"--data {edge.data} --proxy NAME" in edge.log_tail()


def test_without_a_running_edge_the_settings_count(tmp_path: Path) -> None:
    edge = Edge(tmp_path, f"http://127.0.0.1:{REFUSING}/simple/", top='listen = "127.0.0.1:4711"')
    told = edge.command("use", "pip", "--print")
    assert "http://127.0.0.1:4711/pypi/simple/" in told.stdout


@pytest.mark.parametrize(
    ("top", "sentence"),
    [
        ("[proxy]\nenabled = false\n", "this edge's proxy face is off ([proxy] enabled is false)"),
        ('[proxy]\nusers = { ci = "" }\n', "proxy.users: the user ci has no password"),
        ("[tls]\nonly = true\n", "tls.only: TLS needs a certificate: set cert and key"),
    ],
)
def test_a_proxy_that_cannot_be_is_not_offered(tmp_path: Path, top: str, sentence: str) -> None:
    edge = Edge(tmp_path, f"http://127.0.0.1:{REFUSING}/simple/", top=top)
    told = edge.command("use", "--proxy", "pip", "--print")
    assert told.returncode != 0
    assert sentence in told.stderr
