"""Every client's own configuration for the proxy face: its proxy, and what makes it trust the root.

``edge use --proxy CLIENT`` writes it and keeps records apart from those of ``edge use CLIENT``, so that either is undone alone. A client
that has no setting for both is in ``BY_VARIABLES``: it gets lines for a shell instead, and nothing is written.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shlex
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from origin.settings import user_directory

from .. import signer
from .. import trust as trusting
from ..configfiles import INI, NPMRC, Block, KeyAt, MavenSettings, Member, Properties, Values, YAMLLines, YarnRC, find
from ..environment import LOOPBACK, Proxy, java_properties, non_proxy_hosts
from ..trust import Trust
from .jvm import maven_path
from .node import npmrc_path, yarn1_path, yarn_path
from .python import pip_path
from .records import Client, ClientError, ConfigFile, Surroundings, is_loopback

type Keys = list[tuple[KeyAt, Any]]

BY_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "uv": ("HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE"),
    "poetry": ("HTTPS_PROXY", "HTTP_PROXY", "REQUESTS_CA_BUNDLE"),
    "pdm": ("HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE"),
    "bun": ("HTTPS_PROXY", "HTTP_PROXY", "NODE_EXTRA_CA_CERTS"),
    "sbt": ("JAVA_TOOL_OPTIONS",),
}
"""Clients that take a proxy or a root from variables only, and which those are."""

_ID = "leeward"

ANSWER_S = 3.0
"""How long an edge may take to show its root."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a client is given: where the proxy is and which files hold the roots."""

    proxy: Proxy
    trust: Trust


def proxied(name: str, given: Given | None) -> Client:
    """The row for ``edge use --proxy NAME``. Without ``given`` it is good for undoing only.

    Raises ``ClientError`` for a client that has no such settings.
    """
    if name in BY_VARIABLES:
        raise ClientError(f"{name} has no settings for a proxy and the roots it trusts: it takes variables only")
    files = tuple(
        ConfigFile(file.format, file.path, _pointing(file.keys, given) if given is not None else lambda _values, _url: [])
        for file in _FILES[name]
    )
    shared = "npm" if name == "pnpm" else name
    return Client(
        name=name,
        kind="",
        files=files,
        once="edge run -- COMMAND",
        overrides=_OVERRIDES.get(name, ()),
        notes=_NOTES.get(name, lambda _here, _values, _url: []),
        shares=f"proxy-{shared}",
    )


def variables(name: str, given: Given) -> list[str]:
    """Lines for a POSIX shell that have the client go through the proxy and trust the root."""
    java = " ".join(f"-D{key}={value}" for key, value in java_properties(given.proxy, given.trust, LOOPBACK).items())
    values = {
        "HTTPS_PROXY": given.proxy.url,
        "HTTP_PROXY": given.proxy.url,
        "SSL_CERT_FILE": str(given.trust.bundle),
        "REQUESTS_CA_BUNDLE": str(given.trust.bundle),
        "NODE_EXTRA_CA_CERTS": str(given.trust.root),
        "JAVA_TOOL_OPTIONS": java,
    }
    lines = [f"export {variable}={shlex.quote(values[variable])}" for variable in BY_VARIABLES[name]]
    direct = [] if name == "sbt" else [f"export NO_PROXY={','.join(LOOPBACK)}"]
    return [*lines, *direct]


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _File:
    format: Any
    path: Callable[[Surroundings], Path]
    keys: Callable[[Values, Given], Keys]


def _pointing(keys: Callable[[Values, Given], Keys], given: Given) -> Callable[[Values, str], Keys]:
    return lambda values, _url: keys(values, given)


def _pip(values: Values, given: Given) -> Keys:
    wanted = {"proxy": given.proxy.url, "cert": str(given.trust.bundle)}
    # A command's own section wins over [global].
    sections = {name: options for name, options in values.items() if name != "global"}
    keys: Keys = [(("global", key), value) for key, value in wanted.items()]
    return keys + [((name, key), value) for name, options in sections.items() for key, value in wanted.items() if key in options]


def _npm(values: Values, given: Given) -> Keys:
    keys: Keys = [((key,), given.proxy.url) for key in ("proxy", "https-proxy")]
    keys.append((("cafile",), str(given.trust.bundle)))
    # A mirror or a registry on this machine is asked directly. Who names hosts here already is left to it.
    return keys if "noproxy" in values else [*keys, (("noproxy",), ",".join(LOOPBACK))]


def _yarn1(_: Values, given: Given) -> Keys:
    return [
        (("proxy",), json.dumps(given.proxy.url)),
        (("https-proxy",), json.dumps(given.proxy.url)),
        (("cafile",), json.dumps(str(given.trust.bundle))),
    ]


def _yarn(_: Values, given: Given) -> Keys:
    # No httpProxy: Yarn 4 has no list of hosts that are asked directly, and plain HTTP is for registries of one's own.
    return [
        (("httpsProxy",), json.dumps(given.proxy.url)),
        (("httpsCaFilePath",), json.dumps(str(given.trust.bundle))),
    ]


def _maven(values: Values, given: Given) -> Keys:
    proxy = given.proxy
    told = {"id": _ID, "active": "true", "protocol": "http", "host": proxy.host, "port": str(proxy.port)}
    if proxy.username:
        told |= {"username": proxy.username, "password": proxy.password}
    told["nonProxyHosts"] = "|".join(non_proxy_hosts(LOOPBACK))
    mine: KeyAt = ("proxies", Member("id", _ID))
    if find(values, mine) is not None:
        keys: Keys = [((*mine, key), value) for key, value in told.items() if key != "id"]
    else:
        keys = [(mine, told)]
    # Of several that are active one Maven takes the first, another the last: ours is to be the only one.
    for other in values.get("proxies", []):
        name = other.get("id")
        if name != _ID and other.get("active", "true").lower() != "false":
            if not name:
                raise ClientError("a proxy without an <id> is active in Maven's settings; give it one, or take it out first")
            keys.append((("proxies", Member("id", name), "active"), "false"))
    return keys


def _mavenrc(_: Values, given: Given) -> Keys:
    options = [f"-D{key}={value}" for key, value in _trust_properties(given).items()]
    if given.proxy.username:
        options.append("-Djdk.http.auth.tunneling.disabledSchemes=")
    if bad := next((option for option in options if re.search(r'[\s\\"$`]', option)), None):
        raise ClientError(
            f"Maven's start script could not read {bad}: choose a data directory without white space, quotes and dollars"
        )
    return [(("url",), " ".join(options))]


def _trust_properties(given: Given) -> dict[str, str]:
    return {
        key: value for key, value in java_properties(given.proxy, given.trust, ()).items() if key.startswith("javax.net.ssl.")
    }


def _gradle(_: Values, given: Given) -> Keys:
    properties = java_properties(given.proxy, given.trust, LOOPBACK)
    if given.proxy.username:
        for scheme in ("http", "https"):
            properties |= {
                f"{scheme}.proxyUser": given.proxy.username,
                f"{scheme}.proxyPassword": given.proxy.password,
            }
    return [((f"systemProp.{key}",), value) for key, value in properties.items() if not key.startswith("aether.")]


_MAVENRC = Block(
    "# leeward: begin, edge use --proxy maven --undo takes it out",
    'MAVEN_OPTS="$MAVEN_OPTS {url}"\nexport MAVEN_OPTS\n',
    "# leeward: end",
    # What would have to be quoted is refused before.
    str,
    hash_comments=True,
)


def _gradle_properties(here: Surroundings) -> Path:
    home = here.environ.get("GRADLE_USER_HOME")
    return (Path(home) if home else here.home() / ".gradle") / "gradle.properties"


_FILES: Mapping[str, tuple[_File, ...]] = {
    "pip": (_File(INI(), pip_path, _pip),),
    "npm": (_File(NPMRC(), npmrc_path, _npm),),
    "pnpm": (_File(NPMRC(), npmrc_path, _npm),),
    "yarn": (_File(YarnRC(), yarn1_path, _yarn1), _File(YAMLLines(), yarn_path, _yarn)),
    "maven": (
        _File(MavenSettings(_ID), maven_path, _maven),
        _File(_MAVENRC, lambda here: here.home() / ".mavenrc", _mavenrc),
    ),
    "gradle": (_File(Properties(), _gradle_properties, _gradle),),
}

_OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "pip": ("PIP_PROXY", "PIP_CERT"),
    "npm": ("npm_config_proxy", "npm_config_https_proxy", "npm_config_cafile"),
    "pnpm": ("npm_config_proxy", "npm_config_https_proxy", "npm_config_cafile"),
    "yarn": ("YARN_PROXY", "YARN_HTTPS_PROXY", "YARN_CAFILE", "YARN_HTTPS_CA_FILE_PATH"),
    "maven": ("MAVEN_SKIP_RC",),
    "gradle": (),
}


def _npm_notes(_: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    notes = ["npm and pnpm read the same file: either one's --undo takes it back for both"]
    if "ca" in said[0]:
        notes.append("ca is set too, and names the only certificates npm trusts: put them into the cafile's place or take it out")
    if "noproxy" in said[0]:
        notes.append(f"noproxy stays as it is ({said[0]['noproxy']}): hosts in it are asked past this edge")
    return notes


def _yarn_notes(_: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    if "proxy" in str(said[1].get("networkSettings", "")).lower():
        return ["networkSettings name proxies of their own for some hosts, which win"]
    return []


def _maven_notes(_: Surroundings, said: Sequence[Values], _url: str) -> list[str]:
    stay = [proxy.get("id", "") for proxy in said[0].get("proxies", []) if proxy.get("id") != _ID]
    notes = [f"the proxies {', '.join(stay)} are switched off until --undo"] if stay else []
    return [*notes, "programs that embed Maven read no ~/.mavenrc: start them with JAVA_TOOL_OPTIONS, as edge run does"]


def _gradle_notes(_: Surroundings, _said: Sequence[Values], _url: str) -> list[str]:
    return ["daemons that run keep what they were started with: gradle --stop ends them"]


_NOTES: Mapping[str, Callable[[Surroundings, Sequence[Values], str], list[str]]] = {
    "npm": _npm_notes,
    "pnpm": _npm_notes,
    "yarn": _yarn_notes,
    "maven": _maven_notes,
    "gradle": _gradle_notes,
}


def trust_of(address: tuple[str, int], data: Path, root: Path | None, environ: Mapping[str, str]) -> Trust:
    """The files that make a client trust the edge at ``address``: that of ``data``, or another whose root is in the file ``root``.

    An edge of another machine, or another user's, has a root of its own. It is not taken from the address unseen: whoever answers there
    would be trusted for every site. Blocks. Raises ``ClientError``, ``errors.Unusable`` or ``OSError`` with a sentence.
    """
    if root is not None:
        text = root.read_bytes()
        directory = (
            user_directory(environ, "XDG_STATE_HOME", ".local/state")
            / "leeward"
            / "trust"
            / hashlib.sha256(text).hexdigest()[:16]
        )
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        kept = Trust(directory / "root.pem", directory / "bundle.pem", directory / "truststore.p12", trusting.PASSWORD)
        trusting.write_bundle(kept.bundle, text, environ)
        trusting.write_truststore(kept.truststore, text, kept.password, environ)
        signer.place(kept.root, text, 0o644)
        return kept
    host, port = address
    ours = data / "ca" / "root.pem"
    how = "have `edge ca --pem` print it there, and name the file with --root"
    shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    theirs = _root_at(host, port)
    if theirs is not None and not (ours.exists() and _der(ours.read_text("utf-8", "replace")) == theirs):
        raise ClientError(f"the edge at {shown} has a root of its own, which is not that of {data}: {how}")
    if theirs is None and not is_loopback(host) and not ours.exists():
        raise ClientError(f"no edge answers at {shown}, so its root is not known: {how}")
    return trusting.ensure_trust(data)


def _root_at(host: str, port: int) -> bytes | None:
    """The root (DER) of the edge that answers there, None if none does."""
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/-/ca.pem")
        answer = connection.getresponse()
        return _der(answer.read(64 << 10).decode("ascii", "replace")) if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _der(pem: str) -> bytes | None:
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError:
        return None


def given_address(url: str) -> tuple[str, int]:
    """Host and port of an edge's address that clients can be given as their proxy. Raises ``ClientError``."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "http" or not host:
        raise ClientError(f"{url[:80]!r} is no address of a proxy: give the edge's own, like http://127.0.0.1:8080")
    return host, port or 80
