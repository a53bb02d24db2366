"""The environment that ``edge run`` makes for a command, tool by tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edge import run
from edge.environment import Proxy, environment, excludes, java_properties, no_proxy, non_proxy_hosts, user_proxy
from edge.settings import load_edge
from edge.trust import Trust
from origin.settings import NO_CONFIG

PROXY = Proxy("127.0.0.1", 4321)
URL = "http://127.0.0.1:4321"
TRUST = Trust(Path("/ca/root.pem"), Path("/ca/bundle.pem"), Path("/ca/truststore.p12"), "changeit")
HOSTS = ("pypi.test", "npm.test", "maven.test")


def joined(files: Sequence[Path]) -> Path:
    return Path("+".join(map(str, files)))


def made(environ: Mapping[str, str], proxy: Proxy = PROXY, **more: object) -> Mapping[str, str]:
    return environment(proxy, TRUST, environ, hosts=HOSTS, join=joined, **more).variables  # type: ignore[arg-type]


def notes(environ: Mapping[str, str], **more: object) -> str:
    return "\n".join(environment(PROXY, TRUST, environ, hosts=HOSTS, join=joined, **more).notes)  # type: ignore[arg-type]


def test_a_plain_environment_gets_a_proxy_and_trust_for_every_tool() -> None:
    java = made({})["JAVA_TOOL_OPTIONS"]
    assert made({}) == {
        **dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), URL),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
        **dict.fromkeys(("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"), "/ca/bundle.pem"),
        "NODE_EXTRA_CA_CERTS": "/ca/root.pem",
        "NODE_USE_ENV_PROXY": "1",
        "YARN_HTTPS_PROXY": URL,
        "JAVA_TOOL_OPTIONS": java,
    }
    assert java.split() == [
        *("-Dhttp.proxyHost=127.0.0.1", "-Dhttp.proxyPort=4321", "-Dhttps.proxyHost=127.0.0.1", "-Dhttps.proxyPort=4321"),
        "-Dhttp.nonProxyHosts=localhost|127.*|[::1]",
        *("-Djavax.net.ssl.trustStore=/ca/truststore.p12", "-Djavax.net.ssl.trustStorePassword=changeit"),
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        *("-Daether.connector.http.useSystemProperties=true", "-Daether.transport.apache.useSystemProperties=true"),
    ]
    assert notes({}) == ""


def test_yarn_goes_through_the_edge_for_plain_http_only_where_a_registry_needs_it() -> None:
    assert made({}, plain=True)["YARN_HTTP_PROXY"] == URL


@pytest.mark.parametrize(
    ("entry", "host", "told"),
    [
        ("*", "npm.test", True),
        ("npm.test", "npm.test", True),
        ("NPM.test:443", "npm.test", True),
        (".test", "npm.test", True),
        ("*.test", "npm.test", True),
        ("test", "npm.test", True),
        ("m.test", "npm.test", False),
        ("other.test", "npm.test", False),
        ("npm.test", "cdn.npm.test", True),
        ("cdn.npm.test", "npm.test", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/8", "npm.test", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("", "npm.test", False),
        ("*.", "npm.test", False),
    ],
)
def test_what_a_no_proxy_entry_means(entry: str, host: str, told: bool) -> None:
    assert excludes(entry, host) is told


def test_no_proxy_stays_but_for_what_would_lead_past_the_edge() -> None:
    environ = {"NO_PROXY": "corp.test, .test 10.0.0.0/8,localhost"}
    assert no_proxy(environ, HOSTS) == (["corp.test", "10.0.0.0/8", "localhost", "127.0.0.1", "::1"], [".test"])
    assert made(environ)["no_proxy"] == made(environ)["NO_PROXY"] == "corp.test,10.0.0.0/8,localhost,127.0.0.1,::1"
    assert "NO_PROXY names .test" in notes(environ)
    assert "-Dhttp.nonProxyHosts=corp.test|*.corp.test|10.*|localhost|127.*|[::1]" in made(environ)["JAVA_TOOL_OPTIONS"]


def test_a_registry_on_this_machine_is_no_exception_from_the_proxy() -> None:
    assert no_proxy({}, ["127.0.0.1"]) == (["localhost", "::1"], [])


def test_networks_and_names_in_the_words_of_a_jvm() -> None:
    told = non_proxy_hosts(["172.16.5.0/24", "172.16.0.0/12", "*.a.test", ".b.test", "c.test:8443", "10.0.0.7", "*", "[fd00::1]"])
    assert told == ["172.16.5.*", "*.a.test", "*.b.test", "c.test", "*.c.test", "10.0.0.7", "*", "[fd00::1]"]


def test_certificates_of_the_persons_own_are_joined_to_ours() -> None:
    environ = {"REQUESTS_CA_BUNDLE": "/corp.pem", "NODE_EXTRA_CA_CERTS": "/corp.pem", "SSL_CERT_FILE": "/ca/bundle.pem"}
    variables = made(environ)
    assert variables["REQUESTS_CA_BUNDLE"] == "/ca/bundle.pem+/corp.pem"
    assert variables["NODE_EXTRA_CA_CERTS"] == "/ca/root.pem+/corp.pem"
    assert variables["SSL_CERT_FILE"] == "/ca/bundle.pem"
    assert "SSL_CERT_DIR" not in made({"SSL_CERT_DIR": "/somewhere"})


def test_certificates_that_cannot_be_read_are_told_of(tmp_path: Path) -> None:
    def join(files: Sequence[Path]) -> Path:
        return run.joined(tmp_path, files)

    told = environment(PROXY, TRUST, {"PIP_CERT": "/nowhere/corp.pem"}, hosts=HOSTS, join=join)
    assert told.variables["PIP_CERT"] == "/ca/bundle.pem"
    assert "PIP_CERT names /nowhere/corp.pem" in told.notes[0]


def test_files_are_joined_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("A")
    other.write_text("B\n")
    path = run.joined(tmp_path, [one, other])
    assert path.read_text() == "A\nB\n"
    assert run.joined(tmp_path, [one, other]) == path
    assert run.joined(tmp_path, [other, one]) != path


def test_settings_of_npm_that_would_win_are_said_louder() -> None:
    assert not [name for name in made({}) if name.lower().startswith("npm_config")]
    variables = made(
        {"NPM_CONFIG_HTTPS_PROXY": "http://old.test:1"}, written={"proxy": "http://old.test:1", "cafile": "/corp.pem"}
    )
    assert variables["NPM_CONFIG_HTTPS_PROXY"] == variables["npm_config_proxy"] == URL
    assert variables["npm_config_cafile"] == "/ca/bundle.pem+/corp.pem"
    assert "npm's setting ca" in notes({}, written={"ca": "-----BEGIN"})


def test_registries_that_npms_own_noproxy_names_are_not_asked_past_the_edge() -> None:
    assert not [name for name in made({"npm_config_noproxy": "corp.test"}, written={"noproxy": "corp.test"}) if "no" in name[11:]]
    assert made({}, written={"noproxy": "corp.test,npm.test"})["npm_config_noproxy"] == "corp.test,localhost,127.0.0.1,::1"
    assert made({"NPM_CONFIG_NO_PROXY": ".test"})["NPM_CONFIG_NO_PROXY"] == "localhost,127.0.0.1,::1"
    assert "noproxy names npm.test" in notes({}, written={"noproxy": "npm.test"})


def test_yarn_is_told_of_certificates_only_where_it_was_before() -> None:
    """Yarn 2 gives up on a variable that it does not know."""
    name = "YARN_HTTPS_CA_FILE_PATH"
    assert name not in made({})
    assert made({name: "/corp.pem"})[name] == "/ca/bundle.pem+/corp.pem"
    assert made({}, written={"httpsCaFilePath": "/corp.pem"})[name] == "/ca/bundle.pem+/corp.pem"


def test_yarn_4_is_told_what_the_public_registry_is_called_unless_somebody_said_so() -> None:
    """Its own default is another name, which no lock file tells; a private registry is not meant by it."""
    name, root = "YARN_NPM_REGISTRY_SERVER", "https://npm.test/"

    def told(environ: dict[str, str], written: dict[str, str] | None = None) -> str | None:
        made = environment(PROXY, TRUST, environ, hosts=HOSTS, join=joined, written=written, public_npm=root)
        return made.variables.get(name)

    assert told({}) == "https://npm.test"
    assert told({name: "https://mine.test"}) is None
    assert told({}, {"npmRegistryServer": "https://mine.test"}) is None
    assert name not in made({})
    private = load_edge({"registries.npm.upstream": root, "data": "/d"}, {}).settings
    assert run.public_npm(private) == ""
    public = load_edge({"data": "/d"}, {}).settings
    assert run.public_npm(public) == public.registries["npm"].upstream


def test_pip_is_told_once_more_where_it_has_a_variable_of_its_own() -> None:
    assert "PIP_PROXY" not in made({})
    assert made({"PIP_PROXY": "http://old.test:1"})["PIP_PROXY"] == URL


def test_pips_file_does_not_lead_past_the_edge_and_its_certificates_stay_trusted() -> None:
    variables = made({}, pip={"proxy": "http://old.test:1", "cert": "/corp.pem"})
    assert variables["PIP_PROXY"] == URL
    assert variables["PIP_CERT"] == "/ca/bundle.pem+/corp.pem"
    assert variables["SSL_CERT_FILE"] == "/ca/bundle.pem"
    assert made({"PIP_CERT": "/mine.pem"}, pip={"cert": "/corp.pem"})["PIP_CERT"] == "/ca/bundle.pem+/mine.pem", "as pip has it"


def test_what_pips_files_say_is_read(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "VIRTUAL_ENV": str(tmp_path / "venv"), "PIP_CONFIG_FILE": str(tmp_path / "named")}
    machine = [tmp_path / "etc" / "pip.conf"]
    assert run.written_for_pip(environ, machine) == {}
    for name, text in {
        "etc/pip.conf": "[global]\ncert = /m.pem\nproxy = http://m.test:1\n",
        ".pip/pip.conf": "[install]\nproxy = http://a.test:1\ncert = /a.pem\n",
        ".config/pip/pip.conf": "[global]\nproxy = http://b.test:1\nindex-url = https://b.test\n",
        "venv/pip.conf": "[download]\ncert = /c.pem\n",
        "named": "what is this",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert run.written_for_pip(environ, machine) == {"proxy": "http://b.test:1", "cert": "/c.pem"}
    assert run.written_for_pip(environ | {"PIP_CONFIG_FILE": "/dev/null"}, machine) == {}


def test_a_proxy_that_gradles_own_files_name_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": str(tmp_path)}
    (tmp_path / ".gradle").mkdir()
    properties = tmp_path / ".gradle" / "gradle.properties"
    properties.write_text("org.gradle.daemon=false\n")
    assert run._gradle_notes("./gradlew", environ, PROXY) == []
    properties.write_text("systemProp.https.proxyHost=corp.test\n")
    assert run._gradle_notes("./gradlew", environ, PROXY) == [f"{properties} names a proxy, which Gradle takes before this one"]
    assert run._gradle_notes("mvn", environ, PROXY) == []
    told = "systemProp.https.proxyHost=127.0.0.1\nsystemProp.https.proxyPort=4321\nsystemProp.javax.net.ssl.trustStore=/x\n"
    properties.write_text(told)
    assert run._gradle_notes("./gradlew", environ, PROXY) == [], "as edge use --proxy gradle has written it"
    properties.rename(tmp_path / "elsewhere")
    (tmp_path / "gradle.properties").write_text("systemProp.javax.net.ssl.trustStore=/corp.p12\n")
    assert "names a truststore" in run._gradle_notes("gradle", environ, PROXY)[0]


@pytest.mark.parametrize(
    ("program", "name", "text", "told"),
    [
        ("/bin/uv", "work/uv.toml", 'https-proxy = "http://corp.test:1"\n', "https-proxy"),
        ("uv", "pyproject.toml", '[tool.uv]\nno-proxy = ["npm.test"]\n', "no-proxy"),
        ("uv", ".config/uv/uv.toml", 'http-proxy = "http://corp.test:1"\n', "http-proxy"),
        ("uv", "work/pyproject.toml", '[project]\nname = "proxy"\n', ""),
        ("pnpm", "work/pnpm-workspace.yaml", "httpsProxy: http://corp.test:1\n", "httpsProxy"),
        ("pnpm", ".config/pnpm/config.yaml", "noProxy: npm.test\n", "noProxy"),
        ("npm", ".config/pnpm/config.yaml", "noProxy: npm.test\n", ""),
    ],
)
def test_a_proxy_that_wins_over_variables_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, name: str, text: str, told: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    wanted = [f"{tmp_path / name} has {told}, which {Path(program).name} heeds before this edge"] if told else []
    assert run._own_notes(program, {"HOME": str(tmp_path)}) == wanted


def test_options_of_jvms_stay_and_ours_come_last() -> None:
    environ = {"JAVA_TOOL_OPTIONS": "-Xmx1g -Dhttps.proxyHost=old.test"}
    assert made(environ)["JAVA_TOOL_OPTIONS"].startswith("-Xmx1g -Dhttps.proxyHost=old.test -Dhttp.proxyHost=127.0.0.1 ")
    assert "JAVA_TOOL_OPTIONS has proxyHost: it is passed over" in notes(environ)
    assert "MAVEN_OPTS has javax.net.ssl.trustStore: it wins" in notes({"MAVEN_OPTS": "-Djavax.net.ssl.trustStore=/x"})
    assert notes(made({})) == "", "an edge run within another one has nothing to say"


@pytest.mark.parametrize("directory", ["/with space/ca", "/it's/ca", "/both \"and' more/ca"])
def test_a_jvm_reads_the_options_as_they_are_meant(directory: str) -> None:
    trust = Trust(TRUST.root, TRUST.bundle, Path(directory) / "truststore.p12", "changeit")
    variables = environment(PROXY, trust, {}, hosts=HOSTS, join=joined).variables
    java = shutil.which("java")
    assert java is not None, "java is missing: `make test` installs Debian's package default-jdk-headless"
    done = subprocess.run(
        [java, "-XshowSettings:properties", "-version"], env=dict(variables), capture_output=True, text=True, check=True
    )
    found = dict(re.findall(r"(?m)^    ([\w.]+) = (.*)$", done.stderr))
    wanted = java_properties(PROXY, trust, ["localhost", "127.0.0.1", "::1"])
    assert {name: found.get(name) for name in wanted} == wanted


def test_credentials_are_in_urls_and_in_nothing_that_jvms_print() -> None:
    proxy = Proxy("::1", 4321, "me@home", "p:w /'x")
    variables = made({"GRADLE_OPTS": "-Xmx1g"}, proxy)
    assert variables["HTTPS_PROXY"] == "http://me%40home:p%3Aw%20%2F%27x@[::1]:4321"
    assert "p:w" not in variables["JAVA_TOOL_OPTIONS"] + repr(proxy)
    assert "-Djdk.http.auth.tunneling.disabledSchemes= " in variables["JAVA_TOOL_OPTIONS"]
    words = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {variables['GRADLE_OPTS']}"], capture_output=True, text=True, check=True
    )
    assert words.stdout.splitlines() == [
        *("-Xmx1g", "-Dhttp.proxyUser=me@home", "-Dhttp.proxyPassword=p:w /'x"),
        *("-Dhttps.proxyUser=me@home", "-Dhttps.proxyPassword=p:w /'x"),
    ]
    assert "GRADLE_OPTS" not in made({})


def test_the_persons_own_proxy_is_the_one_that_registries_are_asked_through() -> None:
    assert user_proxy({}) == ""
    assert (
        user_proxy({"HTTP_PROXY": "http://a.test:1", "https_proxy": "b.test:2", "HTTPS_PROXY": "http://c.test:3"})
        == "http://b.test:2"
    )
    assert user_proxy({"ALL_PROXY": "http://a.test:1"}) == "http://a.test:1"


def test_what_npms_files_say_is_read(tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    (project / "below").mkdir(parents=True)
    home.mkdir()
    (home / ".npmrc").write_text("https-proxy=http://old.test:1\ncafile=${CORP}/ca.pem\n")
    (project / ".npmrc").write_text("https-proxy=null\nproxy = http://mine.test:2\n")
    (project / "package.json").write_text("{}")
    (home / ".config" / "pnpm").mkdir(parents=True)
    (home / ".config" / "pnpm" / "rc").write_text("noproxy=pnpm.test\nproxy=http://pnpm.test:1\n")
    (project / ".yarnrc.yml").write_text('httpsCaFilePath: "certs/ca.pem"\nnpmRegistryServer: "https://mine.test"\n')
    environ = {"HOME": str(home), "CORP": "/corp", "PATH": str(tmp_path)}
    assert run.written_for_npm(project / "below", environ, machine=()) == {
        "https-proxy": "http://old.test:1",
        "cafile": "/corp/ca.pem",
        "proxy": "http://mine.test:2",
        "noproxy": "pnpm.test",
        "httpsCaFilePath": str(project / "certs/ca.pem"),
        "npmRegistryServer": "https://mine.test",
    }


def test_what_npms_file_for_the_whole_machine_says_is_read(tmp_path: Path) -> None:
    node = tmp_path / "node" / "bin" / "node"
    node.parent.mkdir(parents=True)
    node.write_text("#!/bin/sh\n")
    node.chmod(0o755)
    environ = {"HOME": str(tmp_path), "PATH": str(node.parent)}
    for name, text in {"etc/npmrc": "cafile=/old.pem\nproxy=http://old.test:1\n", "node/etc/npmrc": "cafile=/corp.pem\n"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    machine = [tmp_path / "etc" / "npmrc"]
    found = run.written_for_npm(tmp_path, environ, machine)
    assert found == {"cafile": "/corp.pem", "proxy": "http://old.test:1"}
    assert made({}, written=found)["npm_config_cafile"] == "/ca/bundle.pem+/corp.pem"
    named = tmp_path / "named"
    named.write_text("cafile=/named.pem\n")
    assert run.written_for_npm(tmp_path, environ | {"npm_config_globalconfig": str(named)}, machine) == {"cafile": "/named.pem"}
    (tmp_path / ".npmrc").write_text("cafile=/mine.pem\n")
    assert run.written_for_npm(tmp_path, environ, machine)["cafile"] == "/mine.pem", "as npm has it"


def test_a_project_does_not_say_where_packages_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, home = tmp_path / "project", tmp_path / "home"
    (home / ".config" / "leeward").mkdir(parents=True)
    project.mkdir()
    (project / "edge.toml").write_text('[registries.pypi]\nupstream = "http://elsewhere.test/simple/"\n')
    monkeypatch.chdir(project)
    environ = {"HOME": str(home)}
    told: list[str] = []
    chosen = run.usual_config(environ, told.append)
    assert chosen == NO_CONFIG
    assert told == ["edge.toml of this directory is not read; if it is meant, name it: --config edge.toml"]
    loaded = load_edge({"config": str(chosen), "data": tmp_path}, environ)
    assert "elsewhere" not in loaded.settings.registries["pypi"].upstream
    assert loaded.config_path is None
    assert project not in loaded.watch_path.parents, "nor later, by its rules"
    own = home / ".config" / "leeward" / "edge.toml"
    own.write_text("")
    assert run.usual_config(environ, told.append) == own
    monkeypatch.chdir(home)
    told.clear()
    assert run.usual_config(environ, told.append) == own
    assert told == []
