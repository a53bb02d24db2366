"""What is in force at a node at one moment, as one value: rules in their order, and digests that were recalled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..model import ALLOW, Allow, Digest, Listing, Refuse, Verdict
from .recalls import judge_digests, listed
from .rules import Rule, Versions, judge, verdicts


@dataclass(frozen=True, slots=True)
class Policy:
    """``refused`` are the digests that no name makes good."""

    rules: tuple[Rule, ...] = ()
    refused: Mapping[Digest, Refuse] = field(default_factory=dict)

    def judge(self, registry: Versions, project: str, version: str, digests: Iterable[Digest] = ()) -> Verdict:
        """Say whether a release, or a file of it with these digests, may be served."""
        verdict = judge(self.rules, registry, project, version)
        return verdict if verdict is not ALLOW else judge_digests(self.refused, digests)

    def judge_listing(self, registry: Versions, listing: Listing, bound: Mapping[str, Iterable[Digest]]) -> dict[str, Verdict]:
        """The verdict on each version listed that is not simply allowed.

        ``bound`` are digests of the project's files beside those that the listing tells, by version.
        """
        found = verdicts(self.rules, registry, listing)
        if self.refused:
            told = {entry.file.version for entry in listing.entries.values()} | listing.bare
            for version, verdict in listed(self.refused, listing).items():
                found.setdefault(version, verdict)
            for version in told & bound.keys():
                verdict = judge_digests(self.refused, bound[version])
                if verdict is not ALLOW:
                    found.setdefault(version, verdict)
        return found

    def still_forbids(self, registry: Versions, project: str, restrictions: Mapping[str, Verdict]) -> bool:
        """Whether all that another node took off a page, by its ``restrictions``, would be taken off now too."""
        recalls = {refuse.rule for refuse in self.refused.values()}
        return all(
            verdict.rule in recalls or not isinstance(judge(self.rules, registry, project, version), Allow)
            for version, verdict in restrictions.items()
            if isinstance(verdict, Refuse)
        )
