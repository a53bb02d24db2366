"""Where large listings go when they are no longer held: freed a piece at a time, so that nobody waits for it."""

from __future__ import annotations

import trio

from .model import Clock, Entry, Listing

MANY_ENTRIES = 1000
"""Listings with more entries than this are freed a piece at a time."""

MOURNING_S = 10.0
"""How long after a listing was replaced some request may still be rendering it."""


class Graveyard:
    """Entries of listings that are no longer held, let go of a few at a time in a worker thread.

    Freeing 20,000 entries at once takes 16 ms and more, in one call that nothing can interrupt, wherever the last reference happens
    to be dropped. So a second reference to each is kept until the listing itself is gone for certain.
    """

    def __init__(self, clock: Clock, threads: trio.CapacityLimiter) -> None:
        self._clock = clock
        self._threads = threads
        self._buried: list[tuple[float, list[Entry]]] = []

    def bury(self, *listings: Listing) -> None:
        """Take the entries of what is about to be dropped."""
        for listing in listings:
            if len(listing.entries) > MANY_ENTRIES:
                self._buried.append((self._clock() + MOURNING_S, list(listing.entries.values())))

    async def let_go(self) -> None:
        """Free what was buried long enough ago that no request uses it any more."""
        now = self._clock()
        ripe = [entries for until, entries in self._buried if until <= now]
        self._buried = [(until, entries) for until, entries in self._buried if until > now]
        if ripe:
            await trio.to_thread.run_sync(_free_slowly, ripe, limiter=self._threads)


def _free_slowly(buried: list[list[Entry]]) -> None:
    for entries in buried:
        while entries:
            del entries[-256:]
