"""Pin the npm clients that the tests drive: ``python -m tests.tools.node`` writes ``requirements/node/package-lock.json`` anew.

The lock holds hashes and no addresses: neither where each package was found nor who wants to be sponsored. What a package brings
inside its own archive is covered by that archive's hash and left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements" / "node"


def main() -> int:
    done = subprocess.run(
        [
            *["npm", "update", "--package-lock-only", "--omit-lockfile-registry-resolved"],
            *["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"],
        ],
        cwd=REQUIREMENTS,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        return done.returncode
    path = REQUIREMENTS / "package-lock.json"
    path.write_text(trimmed(path.read_text()))
    return 0


def trimmed(lock: str) -> str:
    """Leave out of a lock's text (version 3) what carries addresses or is bundled. Raises ``ValueError`` for a package without a hash."""
    document = json.loads(lock)
    packages: dict[str, dict[str, object]] = document["packages"]
    kept = {path: package for path, package in packages.items() if not package.get("inBundle")}
    for path, package in kept.items():
        package.pop("funding", None)
        package.pop("resolved", None)
        if path and "integrity" not in package:
            raise ValueError(f"{path} has no hash")
    return json.dumps(document | {"packages": kept}, indent=2) + "\n"


if __name__ == "__main__":
    sys.exit(main())
