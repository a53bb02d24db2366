"""An edge: the node that stands next to a team and answers its package tools.

An edge is an origin with a front door. It runs the same service as an origin (``origin/service.py``: pages and files,
whatever the source) and adds faces, which say who may ask: the mirror face, registries that tools are pointed at, and the
proxy face, where tools go on asking the registries that they know, and find this edge. Alone it asks the registries; one that
follows an origin asks that first, then its siblings, and the registries only if it may.

The path of one request:

1. ``origin/http/hot.py`` — a request whose answer is already rendered is answered from the selector of idle connections,
   with no task of its own, over TLS too. Answers are kept in ``render.py``, by key and budget, and checked at each hit for
   whether they still hold.
2. ``origin/http/h1.py`` — any other request is parsed strictly and given a task. What is asked over HTTP/2
   (``origin/http/h2.py``) goes the same way from here on.
3. ``forward.py`` tells the faces apart. ``CONNECT`` to a registry's host (``hosts.py`` knows which those are, and what their
   URLs mean) is answered with TLS here; to any other it becomes a tunnel, checked before it is dialled, or is refused.
4. ``mirror.py`` — the request names an instance, or several that share a path; the registry's rules
   (``origin/registries/``) say whether it means a page (or a view of one), a file, something to forward, or something to
   answer here. What differs between the faces is a value, ``Offer``: where the instance is, and whether links are rewritten.
5. ``origin/service.py`` — a held page that is fresh, or a held file, is answered from the store. Otherwise one flight
   (``origin/flights.py``) fetches it for everyone who waits, and ``origin/pipeline/`` verifies, judges and stores it.
6. ``mirror.py`` again — the page is rendered for this client and kept; the file is sent as it is, by ``sendfile``.

The proxy face's certificates: ``certificates.py`` (what they say), ``authority.py`` and ``signer.py`` (who signs, in a process
of its own), ``intercept.py`` (what the serving process has of it), ``trust.py`` and ``ca.py`` (what clients are given).

With an origin: ``enrolment.py`` (how an edge comes to be one of its), ``follow.py`` and ``following/`` (its feed, its verdicts, what is
brought here beforehand, what it is told). Its siblings ask at ``/v1/…`` of the same listener and are shown what is held here, by
``origin/api/server.py``.

The rest: ``app.py`` wires it all, ``settings.py`` is what an operator can say, ``clients/`` points pip, npm, Maven and
their kin here and back, ``run.py`` and ``environment.py`` lead one command through, ``lockfiles.py`` finds hosts that its lock
files name, ``capturing.py`` and ``capture.py`` catch programs that know of no proxy. ``locks/`` reads lock files, ``warm.py`` and
``readiness/`` fetch what they need or say whether it is here, ``rehearsal.py`` and ``mvn.py`` find out what only a build knows.
``__main__.py`` is the command line.
"""
