"""An edge: the node that stands next to a team and answers its package tools.

An edge is an origin with a front door. It runs the same service as an origin (``origin/service.py``: pages and files,
whatever the source) and adds faces, which say who may ask: today the mirror face, registries that tools are pointed at.

The path of one request:

1. ``origin/http/hot.py`` — a request whose answer is already rendered is answered from the selector of idle connections,
   with no task of its own. Answers are kept in ``render.py``, by key and budget, and checked at each hit for whether they
   still hold.
2. ``origin/http/h1.py`` — any other request is parsed strictly and given a task.
3. ``mirror.py`` — the request's path names an instance, or several that share it; the registry's rules
   (``origin/registries/``) say whether it means a page (or a view of one), a file, something to forward, or something to
   answer here.
4. ``origin/service.py`` — a held page that is fresh, or a held file, is answered from the store. Otherwise one flight
   (``origin/flights.py``) fetches it for everyone who waits, and ``origin/pipeline/`` verifies, judges and stores it.
5. ``mirror.py`` again — the page is rendered for this client and kept; the file is sent as it is, by ``sendfile``.

The rest: ``app.py`` wires it all, ``settings.py`` is what an operator can say, ``clients/`` points pip, npm, Maven and
their kin here and back, ``__main__.py`` is the command line.
"""
