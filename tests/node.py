"""The real npm clients, pointed at a registry: npm, pnpm, yarn 1, yarn 4 and bun, each in a home, cache and project of its own.

A project's registry is set where its users would set it (``.npmrc``, ``.yarnrc``, ``.yarnrc.yml``, ``bunfig.toml``). Nothing of this
machine's configuration reaches the clients. They ask and retry as they do by default; telemetry, update checks, funding notes and
the audits that follow an installation are off.

The programs come from ``requirements/node`` and are run by the Node.js pinned there, whichever this machine has.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import ROOT, STRAIGHT, Through, clean_environment

TOOLS = Path(os.environ.get("LEEWARD_NODE_TOOLS", ROOT / ".tools" / "node"))
"""Where ``requirements/node`` is installed."""

MODULES = TOOLS / "node_modules"

_AS_NPM_SAYS = {"x86_64": ("x64", "x64"), "aarch64": ("arm64", "aarch64")}
_NODES, _BUNS = _AS_NPM_SAYS.get(platform.machine(), (platform.machine(), platform.machine()))

NODE = MODULES / f"node-linux-{_NODES}" / "bin" / "node"
BUN_PROGRAM = MODULES / "@oven" / f"bun-linux-{_BUNS}" / "bin" / "bun"

SCRIPTS = {
    "npm": "npm/bin/npm-cli.js",
    "pnpm": "pnpm/bin/pnpm.cjs",
    "pnpm-7": "pnpm-7/bin/pnpm.cjs",
    "pnpm-8": "pnpm-8/bin/pnpm.cjs",
    "pnpm-11": "pnpm-11/bin/pnpm.mjs",
    "yarn": "yarn/bin/yarn.js",
    "yarn-berry": "@yarnpkg/cli-dist/bin/yarn.js",
    "corepack": "corepack/dist/corepack.js",
    "verdaccio-e2e": "@verdaccio/e2e-cli/bin/e2e-cli.js",
}
"""What Node.js runs, by the name this module calls it."""

NO_TUF = ROOT / "tests" / "tools" / "no_tuf.cjs"


@dataclass(frozen=True, slots=True)
class Result:
    """How a client fared. ``output`` is all it printed, ``stdout`` only what it printed there.

    ``installed`` holds ``name@version`` of every package found below ``node_modules``; ``lock`` is the lock file's text, empty if there is
    none.
    """

    returncode: int
    output: str
    stdout: str
    installed: frozenset[str]
    lock: str
    seconds: float

    @property
    def succeeded(self) -> bool:
        return self.returncode == 0

    @property
    def flat(self) -> str:
        """The output as one line without colours, for looking up a sentence that a client wrapped."""
        return re.sub(r"[\s│]+", " ", re.sub(r"\x1b\[[0-9;]*m", "", self.output))


def program(name: str) -> list[str]:
    """The words that run one of the pinned programs: ``bun``, or a name in ``SCRIPTS``."""
    return [str(BUN_PROGRAM)] if name == "bun" else [str(NODE), str(MODULES / SCRIPTS[name])]


def environment(home: Path) -> dict[str, str]:
    """Variables for a client at home in ``home``: nothing of this machine's configuration, and the pinned Node.js first on the PATH."""
    kept = clean_environment(home)
    return kept | {
        "PATH": os.pathsep.join([str(NODE.parent), str(MODULES / ".bin"), kept["PATH"]]),  # pnpm calls npm
        "npm_config_globalconfig": str(home / "no-npmrc"),
        "DO_NOT_TRACK": "1",
        "COREPACK_ENABLE_DOWNLOAD_PROMPT": "0",
    }


@dataclass
class Project:
    """One client's project in ``directory / "project"``, its home with all caches and stores beside it.

    ``retries`` is how often the client repeats a request that failed, without waiting long; None leaves it to the client. (yarn 1 has no
    such setting.) ``settings`` are further ones, by the names the client's configuration file has for them. ``through`` may change between
    runs.
    """

    client: Client
    directory: Path
    registry: str
    retries: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    through: Through = STRAIGHT

    def __post_init__(self) -> None:
        assert self.registry.endswith("/"), self.registry
        self.path.mkdir(parents=True, exist_ok=True)
        (self.directory / "home").mkdir(exist_ok=True)
        self.write_manifest({})
        self.client.configure(self)

    @property
    def path(self) -> Path:
        return self.directory / "project"

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def lock_path(self) -> Path:
        return self.path / self.client.lock_name

    @property
    def lock(self) -> str:
        return self.lock_path.read_text() if self.lock_path.exists() else ""

    def write_manifest(self, dependencies: Mapping[str, str], **more: object) -> None:
        """Write ``package.json``, with these ranges by name."""
        manifest = {"name": "consumer", "version": "1.0.0", "private": True, "dependencies": dict(dependencies), **more}
        (self.path / "package.json").write_text(json.dumps(manifest, indent=2) + "\n")

    # -- what users do

    def install(self, dependencies: Mapping[str, str], *options: str, timeout_s: float = 120) -> Result:
        """Resolve these ranges anew, without an earlier lock, and install into an empty ``node_modules``."""
        self.write_manifest(dependencies)
        self.lock_path.unlink(missing_ok=True)
        self.client.configure(self)
        self.empty_modules()
        return self.run(*self.client.install_words, *options, timeout_s=timeout_s)

    def ci(self, *options: str, timeout_s: float = 120) -> Result:
        """Install into an empty ``node_modules`` exactly what the lock says."""
        self.empty_modules()
        return self.run(*self.client.ci_words, *options, timeout_s=timeout_s)

    def add(self, *packages: str, timeout_s: float = 120) -> Result:
        """Add packages (``name`` or ``name@range``) to what is there."""
        return self.run(*self.client.add_words, *packages, timeout_s=timeout_s)

    def run(self, *words: str, variables: Mapping[str, str] | None = None, timeout_s: float = 120) -> Result:
        """Run the client with these arguments in the project. Raises ``subprocess.TimeoutExpired`` with what it printed till then."""
        return run(
            [*self.through.words, *self.client.command, *words],
            cwd=self.path,
            variables=environment(self.home) | {**self.client.variables(self), **self.through.variables, **(variables or {})},
            timeout_s=timeout_s,
            lock=self.lock_path,
        )

    def empty_modules(self) -> None:
        shutil.rmtree(self.path / "node_modules", ignore_errors=True)

    def empty_cache(self) -> None:
        """Forget all that earlier runs fetched: caches, stores and answers kept."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()


def audit_signatures(project: Project, *options: str) -> Result:
    """``npm audit signatures`` with the registry's own keys. What it would ask of Sigstore's root of trust first, it is not asked.

    Provenance cannot be checked without that root: npm calls every attestation invalid.
    """
    return project.run("audit", "signatures", *options, variables={"NODE_OPTIONS": f"--require={NO_TUF}"})


def corepack(directory: Path, registry: str, *words: str, keys: str | None = None, timeout_s: float = 60) -> Result:
    """Run corepack in ``directory``; what it runs comes from ``registry``.

    ``keys`` is the registry's key document (``/-/npm/v1/keys``); None leaves signatures unchecked.
    """
    trusted = json.dumps({"npm": json.loads(keys)["keys"]}) if keys is not None else "0"
    variables = environment(directory / "home") | {
        "COREPACK_NPM_REGISTRY": registry.rstrip("/"),
        "COREPACK_INTEGRITY_KEYS": trusted,
    }
    return run([*program("corepack"), *words], cwd=directory, variables=variables, timeout_s=timeout_s)


def run(command: Sequence[str], *, cwd: Path, variables: Mapping[str, str], timeout_s: float, lock: Path | None = None) -> Result:
    """Run a program with exactly these variables, and look at what is in ``cwd`` afterwards."""
    began = time.monotonic()
    log = cwd.parent / f"{cwd.name}.output"
    with (
        log.open("w+b") as everything,
        subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=everything,
            start_new_session=True,
        ) as process,
    ):
        try:
            stdout, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            error.stdout, _ = process.communicate()
            everything.seek(0)
            error.stderr = everything.read()
            raise
        everything.seek(0)
        stderr = everything.read()
    text = stdout.decode(errors="replace")
    return Result(
        process.returncode,
        text + stderr.decode(errors="replace"),
        text,
        installed(cwd / "node_modules"),
        lock.read_text() if lock is not None and lock.exists() else "",
        time.monotonic() - began,
    )


def installed(modules: Path) -> frozenset[str]:
    """``name@version`` of every package in this ``node_modules``, in those within it and in the stores pnpm and bun keep there."""
    found = set()
    for directory, subdirectories, files in modules.walk():
        holder = directory.parent.parent if directory.parent.name.startswith("@") else directory.parent
        if "package.json" in files and holder.name == "node_modules":
            manifest = json.loads((directory / "package.json").read_text())
            found.add(f"{manifest['name']}@{manifest['version']}")
            subdirectories[:] = [name for name in subdirectories if name == "node_modules"]
    return frozenset(found)


# ---- the clients -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """One package manager: what its commands and files are called. ``project`` gives it a place to work in."""

    name: str
    command: Sequence[str]
    lock_name: str
    configure: Callable[[Project], None]
    install_words: Sequence[str] = ("install",)
    ci_words: Sequence[str] = ("install", "--frozen-lockfile")
    add_words: Sequence[str] = ("add",)
    variables: Callable[[Project], Mapping[str, str]] = lambda _: {}

    def project(
        self,
        directory: Path,
        registry: str,
        *,
        retries: int | None = None,
        settings: Mapping[str, object] | None = None,
        through: Through = STRAIGHT,
    ) -> Project:
        """A project in ``directory`` whose packages come from ``registry``, a URL that ends with a slash."""
        return Project(self, directory, registry, retries, settings or {}, through)


def _npmrc(project: Project) -> None:
    """``.npmrc`` of npm and pnpm. Source: npm's ``npmrc(5)``."""
    settings: dict[str, object] = {
        "registry": project.registry,
        "audit": False,
        "fund": False,
        "update-notifier": False,
        **_retries_of_npm(project.retries),
        **project.settings,
    }
    _write(project, ".npmrc", (f"{name}={_plain(value)}" for name, value in settings.items()))


def _retries_of_npm(retries: int | None) -> dict[str, object]:
    if retries is None:
        return {}
    return {"fetch-retries": retries, "fetch-retry-mintimeout": 10, "fetch-retry-maxtimeout": 100}


def _yarnrc(project: Project) -> None:
    """``.yarnrc`` of yarn 1: a name, a space and a value, as in its lock file."""
    settings = {"registry": project.registry, "disable-self-update-check": True, **project.settings}
    _write(project, ".yarnrc", (f"{name} {json.dumps(value)}" for name, value in settings.items()))


def _yarnrc_yml(project: Project) -> None:
    """``.yarnrc.yml`` of yarn 4. Plain HTTP has to be allowed by host."""
    settings: dict[str, object] = {
        "npmRegistryServer": project.registry.rstrip("/"),
        "unsafeHttpWhitelist": [urllib.parse.urlsplit(project.registry).hostname],
        "nodeLinker": "node-modules",
        "enableTelemetry": False,
        **({} if project.retries is None else {"httpRetry": project.retries}),
        **project.settings,
    }
    # JSON is YAML.
    _write(project, ".yarnrc.yml", (f"{name}: {json.dumps(value)}" for name, value in settings.items()))
    # Without a lock yarn would look for the project's root further up.
    project.lock_path.touch()


def _bunfig(project: Project) -> None:
    settings = {"registry": project.registry, **project.settings}
    _write(
        project,
        "bunfig.toml",
        ["telemetry = false", "[install]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())],
    )


def _variables_of_bun(project: Project) -> Mapping[str, str]:
    return {} if project.retries is None else {"BUN_CONFIG_HTTP_RETRY_COUNT": str(project.retries)}


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _write(project: Project, name: str, lines: Iterable[str]) -> None:
    (project.path / name).write_text("".join(f"{line}\n" for line in lines))


NPM = Client("npm", program("npm"), "package-lock.json", _npmrc, ci_words=("ci",))
PNPM = Client("pnpm", program("pnpm"), "pnpm-lock.yaml", _npmrc)
YARN1 = Client("yarn1", [*program("yarn"), "--non-interactive"], "yarn.lock", _yarnrc)
YARN4 = Client("yarn4", program("yarn-berry"), "yarn.lock", _yarnrc_yml, ci_words=("install", "--immutable"))
BUN = Client("bun", program("bun"), "bun.lock", _bunfig, variables=_variables_of_bun)

CLIENTS: Sequence[Client] = (NPM, PNPM, YARN1, YARN4, BUN)
