"""Run a program whose clock a test can move: ``python -m tests.ageing CLOCK MODULE ARGUMENTS…``.

``CLOCK`` is a file of eight bytes: the seconds, as a double, that ``time.time`` is ahead of the real clock. Pages age by hours in no
time, while sockets, timeouts and monotonic clocks go on as they are. The process is called as the module is, as that of an installed
program would be.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path

SHAPE = struct.Struct("<d")


def set_ahead(clock: Path, seconds: float) -> None:
    """Move the clock of whoever runs under ``clock``, now."""
    if not clock.exists():
        clock.write_bytes(SHAPE.pack(seconds))
        return
    with clock.open("r+b") as opened:
        opened.write(SHAPE.pack(seconds))


def main() -> None:
    clock, module = Path(sys.argv[1]), sys.argv[2]
    real = time.time
    with clock.open("rb") as opened:
        ahead = mmap.mmap(opened.fileno(), SHAPE.size, access=mmap.ACCESS_READ)
    time.time = lambda: real() + SHAPE.unpack_from(ahead)[0]
    sys.argv = [module, *sys.argv[3:]]
    Path("/proc/self/comm").write_text(module)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
