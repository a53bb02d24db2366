"""Measurements: ours beside nginx's ``proxy_cache``, in one interleaved run, on this machine's loopback.

``make bench`` prints one table; ``make bench ARGS=stampede`` (or ``memory``, ``outage``, ``fleet``, ``all``) runs the others. ``python -m
benchmarks --help`` tells all. Each result is also left in ``benchmarks/out/`` as JSON.

The speed of a shared machine wanders by 1.3 to 2 times within seconds, so rounds are interleaved, and only ratios inside a round
count. The server under test is pinned to one core, the client to the other. The work is not identical: nginx opens a cache file for
a page, we answer from memory; links in our pages are root-relative, so they are somewhat smaller.

Reading order: ``__main__`` (what there is), ``stage`` (documents and servers), ``upstream`` (the registry they stand before), ``load.c``
(the client), then one module per question: ``hot``, ``stampede``, ``memory``, ``outage``, ``catalogue``, ``fleet`` (its origin is
``publishing``, its edges are ``followers``, its plot is drawn by ``plot``), ``propagation``,
``recall``.
"""
