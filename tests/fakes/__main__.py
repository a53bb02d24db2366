"""Run the fake registry: ``python -m tests.fakes`` prints its addresses as one line of JSON and serves until its input ends."""

from __future__ import annotations

import json
import resource
import sys

from tests.fakes.server import HOSTS, Server


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server()
    server.start()
    sys.stdout.write(json.dumps({"ports": server.ports, "hosts": HOSTS}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()  # ends when the test's process does, however that ends


if __name__ == "__main__":
    main()
