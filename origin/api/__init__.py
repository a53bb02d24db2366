"""The replication face: what edges and their origin, and siblings among themselves, say to each other over HTTP.

``wire.py`` is pure and spoken by both sides: paths, header fields and messages. ``server.py`` answers (an origin all of it, an edge the
part that siblings may ask); ``sources/remote.py``, ``sources/sibling.py`` and ``edge/follow.py`` ask.
"""
