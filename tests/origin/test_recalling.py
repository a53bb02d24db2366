"""Recalls at an origin: what a target means, one revision after another, undone, and who had got it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec
import pytest
import trio
import trio.testing

from origin.api.wire import Verdicts
from origin.catalog import Access, Binding
from origin.catalog.memory import MemoryCatalog
from origin.errors import Unavailable
from origin.model import Digest, File
from origin.recalling import CentralPolicy, spelled
from origin.registries import Registry
from origin.registries.maven import Maven
from origin.registries.npm import NPM
from origin.registries.pypi import PyPI
from tests.scripted import now

REGISTRIES: Mapping[str, Registry] = {
    "pypi": PyPI("pypi", "http://pypi.test/simple/"),
    "pypi-2": PyPI("pypi-2", "http://other.test/simple/"),
    "npm": NPM("npm", "http://npm.test/"),
    "maven": Maven("maven", "http://maven.test/"),
}
RULE = {"name": "no-evil", "match": "pkg:pypi/evil", "action": "refuse", "reason": "it is evil"}


def digest(content: str) -> Digest:
    return Digest("sha256", hashlib.sha256(content.encode()).hexdigest())


def binding(name: str, content: str = "") -> Binding:
    """A name, ``registry:project:version:filename``, and what it is bound to: its own name's digest unless ``content`` is given."""
    registry, project, version, filename = name.split(":")
    return Binding(File(registry, project, version, filename, filename), digest(content or name), 10, 0.0)


@dataclass
class Stand:
    policy: CentralPolicy
    catalog: MemoryCatalog
    applied: list[Verdicts] = field(default_factory=list)


@asynccontextmanager
async def stand(*names: str, catalog: MemoryCatalog | None = None) -> AsyncIterator[Stand]:
    catalog = catalog or MemoryCatalog(keeps_ledger=True)
    applied: list[Verdicts] = []
    policy = CentralPolicy(catalog, REGISTRIES, now, applied.append)
    await policy.open()
    for name in names:
        await catalog.bind(binding(*name.split("=")))
    yield Stand(policy, catalog, applied)


def keys(bindings: tuple[Binding, ...]) -> list[str]:
    return [each.file.key for each in bindings]


async def test_each_change_is_the_next_revision_in_force_and_a_line_of_the_ledger(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        assert await s.policy.set_rules([RULE])
        assert not await s.policy.set_rules([dict(RULE)])
        await s.policy.recall("pkg:npm/bad@1.0.0", "it steals")
        assert [each.revision for each in s.applied] == [0, 1, 2]
        assert s.applied[-1] == s.policy.current
        lines = [change for change in await s.catalog.changes(0) if change.kind == "verdicts"]
        assert [(line.resource, line.revision, line.at) for line in lines] == [("verdicts", 1, now()), ("verdicts", 2, now())]
        assert lines[-1].digest == Digest("sha256", hashlib.sha256(msgspec.json.encode(s.policy.current)).hexdigest())


async def test_policy_outlives_a_restart() -> None:
    async with stand() as s:
        await s.policy.set_rules([RULE])
        await s.policy.recall("pkg:npm/bad@1.0.0", "it steals")
        async with stand(catalog=s.catalog) as again:
            assert again.policy.current == s.policy.current == again.applied[-1]
            assert not await again.policy.set_rules([RULE])


async def test_a_release_means_the_bytes_of_its_files_and_says_who_else_has_them() -> None:
    names = (
        "pypi:evil:1.0:evil-1.0.tar.gz",
        "pypi:evil:1.0:evil-1.0-py3-none-any.whl=wheel",
        "pypi:evil:2.0:evil-2.0.tar.gz",
        "pypi:innocent:1.0:innocent-1.0-py3-none-any.whl=wheel",
        "pypi-2:evil:1.0:evil-1.0.tar.gz",
        "npm:evil:1.0:evil-1.0.tgz",
    )
    async with stand(*names) as s:
        recall, meant = await s.policy.recall("pkg:pypi/Evil@1.0", "  it\nsteals ")
        assert recall.purls == ("pkg:pypi/Evil@1.0",)
        assert recall.reason == "it steals"
        assert keys(meant.bindings) == [
            "pypi:evil:1.0:evil-1.0-py3-none-any.whl",
            "pypi:evil:1.0:evil-1.0.tar.gz",
            "pypi-2:evil:1.0:evil-1.0.tar.gz",
        ]
        assert set(recall.digests) == {str(each.digest) for each in meant.bindings}
        assert keys(meant.also) == ["pypi:innocent:1.0:innocent-1.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("target", "versions"),
    [
        ("pkg:pypi/evil", ["1.0", "1.5", "2.0", ""]),
        ("pkg:pypi/evil@>=1.5", ["1.5", "2.0"]),
        ("pkg:pypi/evil@<2,!=1.0", ["1.5"]),
        ("pkg:pypi/ev*", ["1.0", "1.5", "2.0", ""]),
        ("pkg:pypi/other", []),
        ("pkg:pypi/e..", []),
    ],
)
async def test_a_target_is_read_as_a_rules_match_is(target: str, versions: list[str]) -> None:
    names = [f"pypi:evil:{version}:evil-{version}.tar.gz" for version in ("", "1.0", "1.5", "2.0")]
    async with stand(*names, "pypi-2:devil:1.5:x", "npm:evil:1.5:x", "maven:evil/x:1:y") as s:
        meant = await s.policy.meant(target)
        assert [each.file.version for each in meant.bindings] == versions


async def test_bytes_mean_the_releases_that_have_such_a_file() -> None:
    async with stand(
        "npm:@scope/evil:1.0.0:evil-1.0.0.tgz=same", "maven:org.evil/lib:2.0:lib-2.0.jar=same", "pypi:evil::x=same"
    ) as s:
        for spelling in (f"sha256:{digest('same').value}", str(digest("same")), f" {digest('same').value.upper()} "):
            meant = await s.policy.meant(spelling)
            assert meant.target == str(digest("same")) == meant.digests[0]
            assert meant.purls == ("pkg:maven/org.evil/lib@2.0", "pkg:npm/%40scope/evil@1.0.0")
            assert len(meant.bindings) == 3


async def test_bytes_are_recalled_by_every_digest_that_is_known_of_them_but_md5() -> None:
    async with stand() as at:
        named = binding("npm:evil:1.0:evil-1.0.tgz")
        sha512, sha1, md5 = (Digest(each, hashlib.new(each, b"evil").hexdigest()) for each in ("sha512", "sha1", "md5"))
        await at.catalog.bind(replace(named, aliases=(md5, sha1, sha512)))
        for target in ("pkg:npm/evil@1.0", str(named.digest)):
            recall, _ = await at.policy.recall(target, "bad")
            assert recall.digests == (str(named.digest), str(sha1), str(sha512))


async def test_what_nobody_has_yet_can_be_recalled_beforehand() -> None:
    async with stand() as s:
        recall, meant = await s.policy.recall(str(digest("unseen")), "heard of")
        assert (recall.purls, recall.digests, meant.bindings) == ((), (str(digest("unseen")),), ())
        sha512 = f"sha512-{'ab' * 64}"
        assert (await s.policy.recall(sha512, "heard of"))[0].digests == (sha512,)


@pytest.mark.parametrize("target", ["", "evil", "pkg:cargo/evil", "pkg:pypi/evil@~=1", "sha256:abc", "md5", "evil@1.0"])
def test_what_names_nothing_is_said_so(target: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        spelled(target)


async def test_recalled_again_it_stays_one_recall_and_takes_in_what_came_since() -> None:
    async with stand("pypi:evil:1.0:evil-1.0.tar.gz") as s:
        first, _ = await s.policy.recall("pkg:pypi/evil@1.0", "it steals")
        await s.policy.recall("pkg:pypi/evil@1.0", "it steals")
        assert s.policy.current.revision == 1
        await s.catalog.bind(binding("pypi:evil:1.0:evil-1.0.zip"))
        again, _ = await s.policy.recall("pkg:pypi/evil@1.0", "it steals")
        assert s.policy.current.recalls == (again,)
        assert (again.id, again.at, len(again.digests)) == (first.id, first.at, 2)


@pytest.mark.parametrize("spelling", ["pkg:pypi/evil@1.0", "1", "recall-1"])
async def test_a_recall_is_taken_back_by_its_target_or_its_id(spelling: str) -> None:
    async with stand() as s:
        await s.policy.recall("pkg:pypi/evil@1.0", "a mistake")
        await s.policy.recall("pkg:pypi/other", "no mistake")
        assert (await s.policy.undo(spelling)).target == "pkg:pypi/evil@1.0"
        assert [each.target for each in s.policy.current.recalls] == ["pkg:pypi/other"]
        with pytest.raises(ValueError, match="is not recalled; what is: pkg:pypi/other"):
            await s.policy.undo(spelling)
        await s.policy.undo("pkg:pypi/other")
        with pytest.raises(ValueError, match="is not recalled; nothing is"):
            await s.policy.undo(spelling)


async def test_what_could_not_be_written_down_is_not_in_force() -> None:
    async with stand() as s:
        await s.catalog.close()
        with pytest.raises(Unavailable):
            await s.policy.set_rules([RULE])
        assert s.policy.current == Verdicts()
        assert len(s.applied) == 1


async def test_a_caller_that_leaves_leaves_no_revision_half_made() -> None:
    async with stand() as s:
        with trio.move_on_after(0) as left:
            await s.policy.set_rules([RULE])
        assert left.cancelled_caught
        written = await s.catalog.recall("verdicts")
        assert (msgspec.json.decode(written, type=Verdicts) if written else Verdicts()) == s.policy.current == s.applied[-1]


async def test_two_who_recall_at_once_make_two_revisions(autojump_clock: trio.testing.MockClock) -> None:
    async with stand() as s:
        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(s.policy.recall, f"pkg:pypi/{name}", "bad")
        assert [each.id for each in s.policy.current.recalls] == ["1", "2"]


async def test_who_had_got_it_is_told_by_edge_and_client() -> None:
    evil = "pypi:evil:1.0:evil-1.0.tar.gz"

    def access(
        at: float, client: str, edge: str, *, token: str = "", complete: bool = True, number: int = 0, file: str = evil
    ) -> Access:
        return Access(at, file, digest(file).value, client, token, 10, complete, edge, number)

    async with stand(evil, "pypi:fine:1.0:fine-1.0.tar.gz") as s:
        await s.catalog.record_accesses(
            [
                access(5, "10.0.0.1", "tokyo", number=1),
                access(9, "10.0.0.1", "tokyo", number=2, complete=False),
                access(3, "10.0.0.2", "berlin", number=1, token="ci"),
                access(2, "192.0.2.1", "", token="tokyo"),
                access(4, "10.0.0.3", "berlin", number=2, file="pypi:fine:1.0:fine-1.0.tar.gz"),
            ]
        )
        for target in ("pkg:pypi/evil@1.0", str(digest(evil))):
            meant, delivered = await s.policy.who(target)
            assert keys(meant.bindings) == [evil]
            assert [(d.edge, d.client, d.token, d.first, d.last, d.times, d.whole) for d in delivered] == [
                ("berlin", "10.0.0.2", "ci", 3, 3, 1, 1),
                ("tokyo", "10.0.0.1", "", 5, 9, 2, 1),
                ("tokyo", "", "", 2, 2, 1, 1),
            ]
