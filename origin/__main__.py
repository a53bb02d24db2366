"""The command ``origin``. The central origin is not part of this release; an edge serves alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Say what there is; the exit status is 2, because no command can be run."""
    parser = argparse.ArgumentParser(
        prog="origin",
        description="The central origin is not part of this release. An edge needs none: run `edge serve`.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    if parser.parse_args(arguments).version:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"leeward {version('leeward')}")
        except PackageNotFoundError:
            print("leeward (not installed, run from its source)")
        return 0
    parser.print_help(sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
