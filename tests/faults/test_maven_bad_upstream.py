"""Maven repositories as they are: old ones without checksums, proxies that redirect, portals, connections that break half-way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.fakes.maven import FakeMaven
from tests.harness import Edge, wait_until
from tests.jars import Component, Jars
from tests.maven_stage import get, holds, metadata_path, sidecars_of
from tests.wheels import KB, MB

MEMO_S = 15.0


@pytest.fixture(autouse=True)
def well_behaved_again(restored: None, mirror: Edge) -> Iterator[None]:
    yield
    mirror.age(0)


@pytest.fixture
def lib(repository: FakeMaven, jars: Jars, group: str) -> Component:
    one = jars.component(f"{group}:lib:1.0", size=1 * MB, module=True)
    repository.publish(one)
    return one


def whole(edge: Edge, component: Component) -> None:
    """Everything of a component comes through, and stays."""
    for _ in range(2):
        for file in component.files:
            reply = get(edge, file.path)
            assert (file.filename, reply.status, reply.short) == (file.filename, 200, False), reply.reason
            assert reply.body == file.content
            assert reply.headers["x-checksum-sha1"] == file.sha1
            wait_until(partial(holds, edge, file))


@pytest.mark.parametrize("style", ["bare", "newline", "upper", "named", "label", "openssl"])
def test_checksum_files_of_every_age_are_understood(repository: FakeMaven, mirror: Edge, lib: Component, style: str) -> None:
    repository.mode(style=style, checksum_headers=False)
    assert get(mirror, f"{lib.jar.path}.md5").body.decode() == lib.jar.md5
    whole(mirror, lib)
    assert get(mirror, f"{lib.jar.path}.sha1").body.decode() == lib.jar.sha1
    reply = get(mirror, metadata_path(f"{lib.group}:lib"))
    assert reply.status == 200
    assert sidecars_of(mirror, metadata_path(f"{lib.group}:lib"))["sha1"] == reply.headers["x-checksum-sha1"]


@pytest.mark.parametrize("sidecars", ["", "md5", "sha512"])
def test_files_without_any_sha1_are_delivered_all_the_same(
    repository: FakeMaven, mirror: Edge, lib: Component, sidecars: str
) -> None:
    """Nothing tells before the end what they must be, so they leave whole."""
    repository.mode(sidecars=sidecars, checksum_headers=False, validators=False)
    head = get(mirror, lib.jar.path, "HEAD")
    assert (head.status, head.headers["etag"]) == (200, f'"sha1-{lib.jar.sha1}"')
    whole(mirror, lib)
    assert get(mirror, f"{lib.jar.path}.sha1").body.decode() == lib.jar.sha1
    assert get(mirror, metadata_path(f"{lib.group}:lib")).status == 200


def test_a_broken_transfer_is_taken_up_where_it_broke(repository: FakeMaven, mirror: Edge, lib: Component) -> None:
    path = repository.path_of(lib.jar)
    repository.misbehave(path, truncate=700_000, times=1)
    whole(mirror, lib)
    asked = [seen.header("range") for seen in repository.seen(path=path)]
    assert asked == [None, "bytes=700000-"]


def test_redirects_are_followed_to_hosts_that_the_settings_name(
    repository: FakeMaven, mirror: Edge, lib: Component, start_mirror: Callable[..., Edge]
) -> None:
    repository.misbehave("/maven2/*", host="index", redirect=f"{repository.files_root}*")
    refused = get(mirror, lib.jar.path)
    assert (refused.status, repository.hosts["files"] in refused.reason) == (502, True), refused.reason
    edge = start_mirror(registry={"aliases": [repository.hosts["files"]]})
    whole(edge, lib)
    assert get(edge, metadata_path(f"{lib.group}:lib")).status == 200


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_repository_that_will_not_answer_is_no_absence(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, status: int
) -> None:
    """Object stores say 403 of what is not there, firewalls of what is: neither is a fact about the artifact."""
    lib = jars.component(f"{group}:lib:1.0")
    repository.publish(lib)
    number = repository.misbehave(f"*/{group.replace('.', '/')}/*", status=status, retry_after="1")
    paths = [lib.jar.path, f"{lib.jar.path}.sha1", lib.pom.path, metadata_path(f"{group}:lib")]
    for path in paths:
        reply = get(mirror, path)
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
    repository.behave(number)
    for path in paths:
        wait_until(partial(_answers, mirror, path), 60)


def test_a_portals_page_is_nothing_of_ours(repository: FakeMaven, mirror: Edge, jars: Jars, group: str) -> None:
    """It answers whatever is asked for, checksums and all."""
    lib = jars.component(f"{group}:lib:1.0", size=10 * KB, module=True)
    repository.publish(lib)
    blobs = mirror.blobs()
    number = repository.misbehave("*", html=True)
    paths = [*(file.path for file in lib.files), f"{lib.jar.path}.sha1", metadata_path(f"{group}:lib"), "archetype-catalog.xml"]
    for path in paths:
        assert (path, get(mirror, path).status) == (path, 502)
    assert mirror.blobs() == blobs
    repository.behave(number)
    for path in paths:
        wait_until(partial(_answers, mirror, path), MEMO_S)


@pytest.mark.parametrize(
    "document",
    [
        "<metadata><groupId>org.other</groupId><artifactId>lib</artifactId><versioning/></metadata>",
        "<!DOCTYPE m [<!ENTITY x 'y'>]><metadata><versioning><latest>&x;</latest></versioning></metadata>",
        "<metadata><versioning><versions><version>1.0</version></versions>",
        "<metadata/>",
        "not xml",
        "",
    ],
    ids=["another's", "entities", "cut short", "empty", "text", "nothing"],
)
def test_metadata_that_is_none_of_the_projects_is_not_served(
    repository: FakeMaven, mirror: Edge, jars: Jars, group: str, document: str
) -> None:
    """Its checksums fit; and what is held of the right one goes on."""
    repository.publish(jars.component(f"{group}:lib:1.0"), jars.component(f"{group}:held:1.0"))
    held = get(mirror, metadata_path(f"{group}:held"))
    for name in ("lib", "held"):
        repository.put(f"/maven2/{metadata_path(f'{group}:{name}')}", document)
    assert get(mirror, metadata_path(f"{group}:lib")).status == 502
    assert get(mirror, metadata_path(f"{group}:lib") + ".sha1").status == 502
    mirror.age(700)
    again = get(mirror, metadata_path(f"{group}:held"))
    assert (again.status, again.body) == (200, held.body)


def _answers(edge: Edge, path: str) -> bool:
    return get(edge, path).status == 200
