"""Run a fake registry: ``python -m tests.fakes <kind> [SITE]`` prints its addresses as one line of JSON and serves until its input ends.

``SITE`` is JSON: the members of ``server.Site``.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys

from tests.fakes.server import Server, Site


def main() -> None:
    if len(sys.argv) not in {2, 3}:
        sys.exit("usage: python -m tests.fakes <kind> [SITE]")
    site = Site(**json.loads(sys.argv[2])) if len(sys.argv) == 3 else Site()
    kind = importlib.import_module(f"tests.fakes.{sys.argv[1]}").KIND
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server(kind, site)
    server.start()
    sys.stdout.write(json.dumps({"ports": server.ports, "hosts": dict(site.hosts)}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()  # ends when the test's process does, however that ends


if __name__ == "__main__":
    main()
