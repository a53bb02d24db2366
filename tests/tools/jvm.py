"""Fetch the JVM clients the tests drive: ``python3 tests/tools/jvm.py .tools/jvm``. Needs the system's ``mvn`` and nothing of ours.

Every file is one that ``requirements/jvm.pins`` pins by its SHA-512; mvn fetches, this checks, and archives are unpacked beside. What is
there already and right is not fetched again. Runs with the machine's own Python (3.11 or newer), so that make may call it early.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = ROOT / "requirements" / "jvm.pins"

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"

PROJECT = """\
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>test</groupId><artifactId>tools</artifactId><version>1</version><packaging>pom</packaging>
<build><plugins><plugin><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version><configuration>
<outputDirectory>{directory}</outputDirectory><artifactItems>{items}</artifactItems>
</configuration></plugin></plugins></build></project>
"""


@dataclass(frozen=True)
class Pin:
    """One pinned file; ``sha512`` is lower-case hex, ``classifier`` may be empty."""

    group: str
    artifact: str
    version: str
    extension: str
    classifier: str
    sha512: str

    @classmethod
    def parse(cls, line: str) -> Pin:
        """Read one line of the pins. Raises ``ValueError`` with the line."""
        coordinate, _, digest = line.partition(" sha512:")
        words = coordinate.split(":")
        if len(words) not in {4, 5} or len(digest) != 128:
            raise ValueError(f"{PINS.name}: not a pin: {line[:120]!r}")
        return cls(words[0], words[1], words[2], words[3], words[4] if len(words) == 5 else "", digest)

    @property
    def filename(self) -> str:
        return "-".join(filter(None, (self.artifact, self.version, self.classifier))) + f".{self.extension}"

    @property
    def item(self) -> str:
        """As the fetching plugin is told."""
        values = {
            "groupId": self.group,
            "artifactId": self.artifact,
            "version": self.version,
            "type": self.extension,
            "classifier": self.classifier,
        }
        return (
            "<artifactItem>" + "".join(f"<{name}>{value}</{name}>" for name, value in values.items() if value) + "</artifactItem>"
        )

    def is_right(self, path: Path) -> bool:
        return path.is_file() and hashlib.sha512(path.read_bytes()).hexdigest() == self.sha512


def pins() -> list[Pin]:
    lines = (line.strip() for line in PINS.read_text().splitlines())
    return [Pin.parse(line) for line in lines if line and not line.startswith("#")]


def install(directory: Path) -> None:
    """Bring ``directory`` up to the pins. Raises ``RuntimeError`` with what to do about it."""
    downloads = directory / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    wanted = pins()
    missing = [pin for pin in wanted if not pin.is_right(downloads / pin.filename)]
    if missing:
        _fetch(missing, downloads)
    for pin in missing:
        path = downloads / pin.filename
        if not pin.is_right(path):
            path.unlink(missing_ok=True)
            raise RuntimeError(f"{pin.filename} is not the file that {PINS.name} pins; it was removed. Run make again.")
    for pin in wanted:
        if pin.extension == "tar.gz":
            _unpack(downloads / pin.filename, directory / f"{pin.artifact}-{pin.version}")


def _fetch(missing: list[Pin], downloads: Path) -> None:
    program = shutil.which("mvn")
    if program is None:
        raise RuntimeError("mvn is missing: install Debian's packages maven and default-jdk-headless, then run make again.")
    project = downloads / "pom.xml"
    project.write_text(PROJECT.format(directory=downloads.resolve(), items="".join(pin.item for pin in missing)))
    command = [program, "-B", "-q", "-f", str(project), f"{PLUGIN}:copy"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"mvn could not fetch {', '.join(pin.filename for pin in missing)}:\n{done.stdout[-2000:]}{done.stderr[-500:]}"
        )


def _unpack(archive: Path, target: Path) -> None:
    """Unpack into ``target``'s parent, whole or not at all."""
    if target.is_dir():
        return
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as members:
        members.extractall(partial, filter="data")
    (partial / target.name).rename(target)
    shutil.rmtree(partial)


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: jvm.py DIRECTORY\n")
        return 2
    try:
        install(Path(sys.argv[1]))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
