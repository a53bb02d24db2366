"""A node: what an origin and an edge have in common, and the library both are made of.

A node holds pages, which change and are revalidated, and files, which never change and are named by their digest. What it
does not hold it fetches once, verifies, judges by policy and stores, and it goes on answering when the place it fetched
from is down. The two kinds of node differ in their sources (where a miss is looked for) and their faces (who may ask);
``edge`` is one of them and may import this package, never the reverse.

Reading order:

1. ``model.py`` and ``errors.py`` — the words everything else is written in.
2. ``registries/``, ``policy/``, ``freshness.py`` — the rules, as pure functions: what a registry's documents mean, what may
   be served, how long a page may be used. Nothing here does I/O.
3. ``blobs/``, ``catalog/``, ``sources/``, ``http/``, ``flights.py`` — the ring of I/O: bytes on disk, rows, upstreams,
   clients, and one fetch with many readers.
4. ``pipeline/`` — what happens to a thing between its first byte and its place in the store, one stage after another.
5. ``service.py`` — pages and files, whatever the source, in ``pages.py`` and ``files.py``; ``groups.py`` for several upstreams
   at one path, ``relays.py`` for what is forwarded, ``notes.py`` for the small files that vouch for others.
6. ``app.py`` — what wires a node; ``listening.py`` — how one serves until it is told to stop.
7. What makes one the origin of others: ``api/wire.py`` (the words between nodes), ``identity.py`` and ``tokens.py`` (who is who),
   ``feed.py`` (the ledger, announced), ``fleet.py`` (the edges), ``recalling.py`` (policy and its changes), ``intake.py`` and
   ``holdings.py`` (what edges tell, and what they compare), ``api/server.py`` and ``api/following.py`` (the face), ``backup.py``;
   ``central.py`` and ``serve.py`` wire them.

Beside them: ``settings.py``, ``loading.py``, ``node_settings.py``, ``words.py`` and ``toml_lines.py`` (what operators say, and where they
said it), ``control.py`` (the socket through which commands reach a running node), ``programs.py`` and ``terminal.py`` (what both command
lines have alike, and how they talk to people), ``issuing.py`` (what every certificate of ours says), ``logs.py``, ``metrics.py``,
``access.py``.
"""
