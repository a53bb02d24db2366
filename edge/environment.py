"""The environment in which a command goes through the proxy face and trusts its root: ``environment``, a pure function.

Nothing but variables is set, so nothing has to be taken back. Which client needs which variable is in the comments beside it. What a person
had set is kept where it can be: their certificates are joined to ours, their ``NO_PROXY`` stays but for what would lead past the edge.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from .trust import Trust

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""What is never asked through a proxy: a server of the person's own machine."""

TRUSTING = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Variables that name a file which *replaces* a tool's roots: pip; Poetry and all that uses requests; curl; uv, PDM and OpenSSL's users.

``SSL_CERT_DIR`` stays as it is: those who read both take both.
"""

PROXYING = ("HTTPS_PROXY", "HTTP_PROXY")
"""In both cases: curl reads ``http_proxy`` in lower case only, others prefer either."""

_NPM_PROXIES = ("https-proxy", "proxy", "http-proxy")
_NPM_DIRECT = ("noproxy", "no-proxy")
_NPM_CA = "cafile"

_JVM_FILES = "MAVEN_OPTS", "GRADLE_OPTS", "JAVA_OPTS", "SBT_OPTS", "JDK_JAVA_OPTIONS"


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where the proxy face listens, and who the command says it is; ``username`` is empty where nobody asks."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The proxy's URL, with the credentials if there are any."""
        user = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@" if self.username else ""
        return f"http://{user}{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Environment:
    """Variables to set over those that are there, and sentences for the person about what they had set themselves."""

    variables: Mapping[str, str]
    notes: tuple[str, ...] = ()


def environment(
    proxy: Proxy,
    trust: Trust,
    environ: Mapping[str, str],
    *,
    hosts: Collection[str],
    join: Callable[[Sequence[Path]], Path],
    written: Mapping[str, str] | None = None,
    pip: Mapping[str, str] | None = None,
    plain: bool = False,
    public_npm: str = "",
) -> Environment:
    """What to set so that a command started with ``environ`` uses ``proxy`` and trusts ``trust``.

    ``hosts`` are the registries' host names, which must not be asked directly. ``join`` gives a file with the certificates of several.
    ``written`` are the settings that the npm clients' files name, by the name npm has for them (and two of Yarn 4's): they would win
    over variables for all; ``pip`` are ``proxy`` and ``cert`` of pip's files. ``plain`` says that a registry is reached without TLS.
    ``public_npm`` is the root of the public npm registry, where that is one of ours: Yarn 4 calls it by another name, which stands in
    none of its files, unless it is told.
    """
    notes: list[str] = []
    kept, dropped = no_proxy(environ, hosts)
    if dropped:
        notes.append(f"NO_PROXY names {', '.join(dropped)}, which would lead past the edge: left out for this command")
    direct = ",".join(kept)
    variables = {spelled: proxy.url for name in PROXYING for spelled in (name, name.lower())}
    variables |= {"NO_PROXY": direct, "no_proxy": direct}
    # Node's own fetch, from 24 on. npm, pnpm and Bun read HTTPS_PROXY by themselves; Yarn 4 reads its own variables alone, which are also
    # Yarn 1's words for its setting. A registry of the person's own over plain HTTP is asked as before.
    variables |= {"NODE_USE_ENV_PROXY": "1", "YARN_HTTPS_PROXY": proxy.url}
    if plain:
        variables["YARN_HTTP_PROXY"] = proxy.url
    if environ.get("PIP_PROXY") or (pip or {}).get("proxy"):
        variables["PIP_PROXY"] = proxy.url
    named = {"PIP_CERT": pip["cert"]} if pip and pip.get("cert") else {}
    variables |= _certificates(trust, {**named, **environ}, join, notes)
    variables |= _npm(proxy, trust, environ, written or {}, join, notes)
    variables |= _npm_direct(environ, written or {}, hosts, notes)
    if public_npm and not environ.get("YARN_NPM_REGISTRY_SERVER") and "npmRegistryServer" not in (written or {}):
        # Its lock file has no addresses, and so stays as it is.
        variables["YARN_NPM_REGISTRY_SERVER"] = public_npm.rstrip("/")
    variables |= _java(proxy, trust, environ, kept, notes)
    return Environment(variables, tuple(notes))


# ---- who is asked directly ------------------------------------------------------------------------------------------


def no_proxy(environ: Mapping[str, str], hosts: Collection[str]) -> tuple[list[str], list[str]]:
    """The entries of ``NO_PROXY`` with loopback added, and those of the person's own that were left out since they exclude a registry."""
    named = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    theirs = [entry for entry in re.split(r"[,\s]+", named) if entry]
    dropped = [entry for entry in theirs if any(excludes(entry, host) for host in hosts)]
    wanted = [*theirs, *(entry for entry in LOOPBACK if entry not in theirs)]
    return [entry for entry in wanted if not any(excludes(entry, host) for host in hosts)], dropped


def excludes(entry: str, host: str) -> bool:
    """Whether a tool might take ``entry`` of ``NO_PROXY`` to mean ``host``: as generous as the most generous of them.

    There is no standard: a name means its subdomains too, with or without a dot or ``*.`` before it; a port is passed over; ``*`` is all.
    """
    entry, host = entry.lower(), host.lower().strip("[]").rstrip(".")
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except (ValueError, TypeError):
        pass
    name = re.sub(r":\d+\Z", "", entry).removeprefix("*").removeprefix(".").strip("[]").rstrip(".")
    return bool(name) and (host == name or host.endswith("." + name))


def user_proxy(environ: Mapping[str, str]) -> str:
    """The proxy that the person's tools use for registries (which are reached over TLS), with a scheme; ``""`` if there is none."""
    for name in ("https_proxy", "all_proxy", "http_proxy"):
        if found := environ.get(name) or environ.get(name.upper()):
            return found if "://" in found else f"http://{found}"
    return ""


# ---- who is trusted -------------------------------------------------------------------------------------------------


def _certificates(
    trust: Trust, environ: Mapping[str, str], join: Callable[[Sequence[Path]], Path], notes: list[str]
) -> dict[str, str]:
    variables = {name: str(_with_theirs(name, trust.bundle, environ.get(name, ""), join, notes)) for name in TRUSTING}
    # This one adds to Node's roots, so ours alone is enough. Bun goes by it too.
    name = "NODE_EXTRA_CA_CERTS"
    return variables | {name: str(_with_theirs(name, trust.root, environ.get(name, ""), join, notes))}


def _with_theirs(name: str, ours: Path, theirs: str, join: Callable[[Sequence[Path]], Path], notes: list[str]) -> Path:
    """A file with our certificates and those that the person had ``name`` say."""
    if not theirs or Path(theirs) == ours:
        return ours
    try:
        return join((ours, Path(theirs)))
    except OSError as error:
        notes.append(f"{name} names {theirs}, whose certificates cannot be added ({error.strerror}): left out for this command")
        return ours


# ---- npm's clients --------------------------------------------------------------------------------------------------


def _npm(
    proxy: Proxy,
    trust: Trust,
    environ: Mapping[str, str],
    written: Mapping[str, str],
    join: Callable[[Sequence[Path]], Path],
    notes: list[str],
) -> dict[str, str]:
    """Only what has to be said louder than the person's own files do: for who has none, the variables for all are enough."""
    variables: dict[str, str] = {}
    spelled = {name.lower().removeprefix("npm_config_").replace("_", "-"): name for name in environ if _is_npm(name)}
    for key in _NPM_PROXIES:
        if key in spelled or key in written:
            variables[spelled.get(key, _npm_variable(key))] = proxy.url
    cafile = environ[spelled[_NPM_CA]] if _NPM_CA in spelled else written.get(_NPM_CA, "")
    if cafile:
        name = spelled.get(_NPM_CA, _npm_variable(_NPM_CA))
        variables[name] = str(_with_theirs(name, trust.bundle, cafile, join, notes))
    if "ca" in spelled or "ca" in written:
        notes.append("npm's setting ca names the only certificates it trusts: put them into a file, and name that with cafile")
    # Yarn 4 gives up on variables it does not know, and this one is not as old as Yarn 2: it is set for who uses it.
    name = "YARN_HTTPS_CA_FILE_PATH"
    if theirs := environ.get(name) or written.get("httpsCaFilePath", ""):
        variables[name] = str(_with_theirs(name, trust.bundle, theirs, join, notes))
    return variables


def _npm_direct(
    environ: Mapping[str, str], written: Mapping[str, str], hosts: Collection[str], notes: list[str]
) -> dict[str, str]:
    """npm's own ``noproxy``, which wins over ``NO_PROXY``, without what would lead past the edge."""
    spelled = {name.lower().removeprefix("npm_config_").replace("_", "-"): name for name in environ if _is_npm(name)}
    variables: dict[str, str] = {}
    for key in _NPM_DIRECT:
        name = spelled.get(key, _npm_variable(key))
        kept, dropped = no_proxy({"NO_PROXY": environ.get(name) or written.get(key, "")}, hosts)
        if dropped:
            variables[name] = ",".join(kept)
            notes.append(
                f"npm's setting {key} names {', '.join(dropped)}, which would lead past the edge: left out for this command"
            )
    return variables


def _is_npm(name: str) -> bool:
    return name.lower().startswith("npm_config_")


def _npm_variable(key: str) -> str:
    return f"npm_config_{key.replace('-', '_')}"


# ---- JVMs -----------------------------------------------------------------------------------------------------------


def _java(proxy: Proxy, trust: Trust, environ: Mapping[str, str], direct: Sequence[str], notes: list[str]) -> dict[str, str]:
    """``JAVA_TOOL_OPTIONS``: JVMs read no other variable, whatever starts them. They tell it on standard error, so no secret is in it."""
    before = environ.get("JAVA_TOOL_OPTIONS", "")
    for name in ("JAVA_TOOL_OPTIONS", *_JVM_FILES):
        for told in ("proxyHost", "javax.net.ssl.trustStore="):
            if told in environ.get(name, "") and not _is_ours(environ.get(name, ""), proxy):
                wins = "is passed over for this command" if name == "JAVA_TOOL_OPTIONS" else "wins over what is set here"
                notes.append(f"{name} has {told.rstrip('=')}: it {wins}")
    options = [f"-D{name}={value}" for name, value in java_properties(proxy, trust, direct).items()]
    told = " ".join([*([before] if before else []), *(_java_word(option) for option in options)])
    variables = {"JAVA_TOOL_OPTIONS": told}
    if proxy.username:
        # Gradle hands these on to its daemon.
        users = [f"-D{scheme}.proxy{what}" for scheme in ("http", "https") for what in ("User", "Password")]
        values = (proxy.username, proxy.password) * 2
        words = [_shell_word(f"{user}={value}") for user, value in zip(users, values, strict=True)]
        variables["GRADLE_OPTS"] = " ".join([*filter(None, [environ.get("GRADLE_OPTS")]), *words])
    return variables


def java_properties(proxy: Proxy, trust: Trust, direct: Sequence[str]) -> dict[str, str]:
    """The system properties of a JVM that goes through ``proxy``, but for the hosts in ``direct`` (as in ``NO_PROXY``)."""
    properties: dict[str, str] = {}
    for scheme in ("http", "https"):
        properties |= {f"{scheme}.proxyHost": proxy.host, f"{scheme}.proxyPort": str(proxy.port)}
    properties |= {
        "http.nonProxyHosts": "|".join(non_proxy_hosts(direct)),
        "javax.net.ssl.trustStore": str(trust.truststore),
        "javax.net.ssl.trustStorePassword": trust.password,
        "javax.net.ssl.trustStoreType": "PKCS12",
        # Maven 3.9's and 4's transports by Apache's client look at none of these unless told to. Wagon (3.8 and older) and the JDK's
        # client (Maven 4 by default) always do.
        "aether.connector.http.useSystemProperties": "true",
        "aether.transport.apache.useSystemProperties": "true",
    }
    if proxy.username:
        # The JDK does not send a password in the clear to open a tunnel unless told to.
        properties |= {"jdk.http.auth.tunneling.disabledSchemes": "", "jdk.http.auth.proxying.disabledSchemes": ""}
    return properties


def non_proxy_hosts(entries: Sequence[str]) -> list[str]:
    """``NO_PROXY`` in the JVM's words: patterns with a ``*`` at one end. Networks go in where they end at a dot."""
    patterns: list[str] = []
    for entry in entries:
        name = entry if entry.count(":") > 1 else re.sub(r":\d+\Z", "", entry)
        if "/" in name:
            found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)\.\d+/(8|16|24)", name)
            patterns += [".".join(found.groups()[: int(found[4]) // 8]) + ".*"] if found else []
        elif name == "127.0.0.1":
            patterns.append("127.*")
        elif ":" in name:
            patterns.append(f"[{name.strip('[]')}]")
        elif name.startswith(("*", ".")):
            patterns.append("*." + name.lstrip("*.") if name != "*" else name)
        elif re.fullmatch(r"[\d.]+|localhost", name):
            patterns.append(name)
        else:
            patterns += [name, f"*.{name}"]
    return list(dict.fromkeys(patterns))


def _is_ours(options: str, proxy: Proxy) -> bool:
    """Whether options were set by an ``edge run`` around this one, for the same edge."""
    return f"-Dhttps.proxyHost={proxy.host}" in options and f"-Dhttps.proxyPort={proxy.port}" in options


def _java_word(option: str) -> str:
    """An option for ``JAVA_TOOL_OPTIONS``, where white space separates and either quote keeps together: quotes have no escape."""
    if not re.search(r"[\s\"']", option):
        return option
    return "".join(f"'{piece}'" if '"' in piece else f'"{piece}"' for piece in re.findall(r"[^']+|'+", option))


def _shell_word(word: str) -> str:
    """A word for variables that start scripts hand to ``eval``."""
    return "'" + word.replace("'", "'\\''") + "'" if re.search(r"[^\w@%+=:,./-]", word) else word


def host_and_port(base_url: str) -> tuple[str, int]:
    """Where the base URL of a running edge leads."""
    parts = urlsplit(base_url)
    return parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)
