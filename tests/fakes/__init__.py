"""Registries to test against: a process each, that answers as the real one does, counts what it is asked, and misbehaves on command.

They share no code with ``origin``: what both got wrong together, no test would find. ``server.py`` is what any of them needs, in plain
threads and sockets, and says how to add one; ``misbehaviour.py`` is how it can go wrong; each kind has a module of its own (``pypi.py``,
with ``documents.py`` for what its pages look like; ``npm.py``, with ``npm_documents.py`` and ``npm_keys.py``; ``maven.py``, with
``maven_documents.py``); ``tls.py`` has the authority whose certificates they show when they are reached by name; ``fake.py`` is how a
test talks to them::

    with FakePyPI.start() as fake:
        fake.publish(shelf.wheel("six", "1.0"))
        fake.misbehave("*/six-1.0*", flip=-1)
        ...
        assert fake.count(kind="file") == 1

Index, files and "elsewhere" are three addresses of the loopback network, so that a link from one to another is a link to another host.
"""

from tests.fakes.fake import Fake, Seen
from tests.fakes.maven import FakeMaven
from tests.fakes.npm import FakeNpm
from tests.fakes.pypi import FakePyPI
from tests.fakes.tls import Authority

__all__ = ["Authority", "Fake", "FakeMaven", "FakeNpm", "FakePyPI", "Seen"]
