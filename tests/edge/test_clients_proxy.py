"""Having clients go through the proxy face, and back; beside the mirror face, in any order."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge import __main__ as command_line
from edge.clients import CLIENTS, ClientError, Outcome, Records, Surroundings, how_to, undo, use
from edge.clients.proxied import BY_VARIABLES, Given, given_address, proxied, variables
from edge.configfiles import Properties, edited
from edge.environment import Proxy
from edge.trust import Trust
from origin.settings import default_registries
from tests import node

MIRROR = "http://127.0.0.1:8080/there/"
TRUST = Trust(Path("/ca/root.pem"), Path("/ca/bundle.pem"), Path("/ca/truststore.p12"), "changeit")
GIVEN = Given(Proxy("127.0.0.1", 4321), TRUST)
URL = "http://127.0.0.1:4321"

FILES = {
    "pip": (".config/pip/pip.conf",),
    "npm": (".npmrc",),
    "pnpm": (".npmrc",),
    "yarn": (".yarnrc", ".yarnrc.yml"),
    "maven": (".m2/settings.xml", ".mavenrc"),
    "gradle": (".gradle/gradle.properties",),
}
MINE = {
    ".config/pip/pip.conf": "# mine\n[global]\ntimeout = 60\n",
    ".npmrc": "; mine\nfund=false\n",
    ".yarnrc": "# mine\nlastUpdateCheck 12\n",
    ".yarnrc.yml": "# mine\nnodeLinker: node-modules\n",
    ".m2/settings.xml": "<settings>\n  <!-- mine -->\n  <offline>false</offline>\n</settings>\n",
    ".mavenrc": "# mine\nJAVA_HOME=/opt/java\n",
    ".gradle/gradle.properties": "# mine\norg.gradle.jvmargs=-Xmx1g \\\n  -Dx=y\n",
}
LATER = {
    ".config/pip/pip.conf": "retries = 1\n",
    ".npmrc": "audit=false\n",
    ".yarnrc": "childConcurrency 7\n",
    ".yarnrc.yml": "enableColors: false\n",
    ".m2/settings.xml": "<!-- later -->\n",
    ".mavenrc": "# later\n",
    ".gradle/gradle.properties": "later=1\n",
}

every_client = pytest.mark.parametrize("name", list(FILES))


@dataclass
class Desk:
    """A person's home, which is also the working directory."""

    directory: Path

    @property
    def here(self) -> Surroundings:
        environ = {"HOME": str(self.directory), "XDG_CONFIG_HOME": str(self.directory / ".config")}
        return Surroundings(environ, self.directory)

    @property
    def records(self) -> Records:
        return Records(self.directory / "state")

    def write(self, file: str, content: str) -> Path:
        path = self.directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def contents(self, name: str) -> list[str | None]:
        paths = [self.directory / file for file in FILES[name]]
        return [path.read_text() if path.exists() else None for path in paths]

    def proxy(self, name: str, given: Given = GIVEN) -> Outcome:
        return use(proxied(name, given), given.proxy.url, self.here, self.records)

    def no_proxy(self, name: str) -> Outcome:
        return undo(proxied(name, None), self.here, self.records)

    def mirror(self, name: str) -> Outcome:
        return use(CLIENTS[name], MIRROR, self.here, self.records)

    def no_mirror(self, name: str) -> Outcome:
        return undo(CLIENTS[name], self.here, self.records)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path.resolve())


def has_proxy(text: str) -> bool:
    return "4321" in text and ("/ca/bundle.pem" in text or "/ca/truststore.p12" in text)


@every_client
def test_files_that_were_made_are_taken_away(desk: Desk, name: str) -> None:
    desk.proxy(name)
    assert has_proxy("".join(content or "" for content in desk.contents(name)))
    assert not desk.proxy(name).changed
    desk.no_proxy(name)
    assert desk.contents(name) == [None for _ in FILES[name]]
    assert not list(desk.records.directory.glob("*.json"))


@every_client
def test_what_a_person_has_comes_back_to_the_byte(desk: Desk, name: str) -> None:
    for file in FILES[name]:
        desk.write(file, MINE[file])
    desk.proxy(name)
    for file, content in zip(FILES[name], desk.contents(name), strict=True):
        assert content is not None
        assert "mine" in content
        assert content != MINE[file]
    desk.no_proxy(name)
    assert desk.contents(name) == [MINE[file] for file in FILES[name]]


@every_client
def test_what_a_person_added_since_stays(desk: Desk, name: str) -> None:
    for file in FILES[name]:
        path = desk.write(file, MINE[file])
    desk.proxy(name)
    for file in FILES[name]:
        path = desk.directory / file
        path.write_text(path.read_text() + LATER[file])
    desk.no_proxy(name)
    assert desk.contents(name) == [MINE[file] + LATER[file] for file in FILES[name]]


@pytest.mark.parametrize("mine", [True, False], ids=["mine", "none"])
@pytest.mark.parametrize("order", list(itertools.product((True, False), repeat=2)), ids=str)
@every_client
def test_mirror_and_proxy_are_undone_one_by_one(desk: Desk, name: str, order: tuple[bool, bool], mine: bool) -> None:
    """Whichever came first and whichever goes first: the other stays as it is, and in the end all is as it was."""
    files = {*FILES[name], *(str(config.path(desk.here).relative_to(desk.directory)) for config in CLIENTS[name].files)}
    before = {file: MINE.get(file) if mine else None for file in files}
    for file, content in before.items():
        if content is not None:
            desk.write(file, content)
    first, second = (desk.proxy, desk.mirror) if order[0] else (desk.mirror, desk.proxy)
    first(name)
    second(name)

    def text() -> str:
        return "".join((desk.directory / file).read_text() for file in files if (desk.directory / file).exists())

    assert has_proxy(text())
    assert MIRROR in text()
    if order[1]:
        desk.no_proxy(name)
        assert not has_proxy(text())
        assert MIRROR in text()
        desk.no_mirror(name)
    else:
        desk.no_mirror(name)
        assert MIRROR not in text()
        assert has_proxy(text())
        desk.no_proxy(name)
    assert {file: path.read_text() if (path := desk.directory / file).exists() else None for file in files} == before
    assert not list(desk.records.directory.glob("*.json"))


def test_a_file_that_vanished_does_not_bring_the_other_face_back(desk: Desk) -> None:
    desk.mirror("npm")
    desk.proxy("npm")
    (desk.directory / ".npmrc").unlink()
    desk.no_mirror("npm")
    desk.no_proxy("npm")
    assert desk.contents("npm") == [None]


def test_undoing_one_says_that_the_other_stays(desk: Desk) -> None:
    desk.mirror("npm")
    desk.proxy("npm")
    assert f"what edge use npm wrote to {desk.directory / '.npmrc'} stays" in desk.no_proxy("npm").notes
    desk.proxy("npm")
    assert f"what edge use --proxy npm wrote to {desk.directory / '.npmrc'} stays" in desk.no_mirror("npm").notes


def test_what_the_files_say(desk: Desk) -> None:
    for name in FILES:
        desk.proxy(name)
    text = {file: (desk.directory / file).read_text() for name in FILES for file in FILES[name]}
    assert text[".config/pip/pip.conf"] == f"[global]\ncert = /ca/bundle.pem\nproxy = {URL}\n"
    assert text[".npmrc"].splitlines() == [
        *(f"proxy={URL}", f"https-proxy={URL}", "cafile=/ca/bundle.pem", "noproxy=localhost,127.0.0.1,::1")
    ]
    assert text[".yarnrc"].splitlines() == [f'proxy "{URL}"', f'https-proxy "{URL}"', 'cafile "/ca/bundle.pem"']
    assert text[".yarnrc.yml"].splitlines() == [f'httpsProxy: "{URL}"', 'httpsCaFilePath: "/ca/bundle.pem"']
    assert "<protocol>http</protocol>" in text[".m2/settings.xml"]
    assert "<nonProxyHosts>localhost|127.*|[::1]</nonProxyHosts>" in text[".m2/settings.xml"]
    assert 'MAVEN_OPTS="$MAVEN_OPTS -Djavax.net.ssl.trustStore=/ca/truststore.p12' in text[".mavenrc"]
    properties = Properties().read(text[".gradle/gradle.properties"])
    assert properties["systemProp.https.proxyPort"] == "4321"
    assert properties["systemProp.javax.net.ssl.trustStorePassword"] == "changeit"
    assert not [key for key in properties if "jvmargs" in key or "aether" in key]


def test_settings_of_a_pip_command_win_and_so_are_changed_too(desk: Desk) -> None:
    desk.write(".config/pip/pip.conf", "[install]\nproxy = http://old.test:1\n")
    desk.proxy("pip")
    text = (desk.directory / ".config/pip/pip.conf").read_text()
    assert "old.test" not in text
    assert text.count(URL) == 2
    desk.no_proxy("pip")
    assert (desk.directory / ".config/pip/pip.conf").read_text() == "[install]\nproxy = http://old.test:1\n"


CORP = """\
<settings>
  <proxies>
    <proxy><id>corp</id><host>corp.test</host><port>3128</port></proxy>
    <proxy><id>off</id><active>false</active><host>off.test</host><port>3128</port></proxy>
  </proxies>
</settings>
"""


def test_mavens_other_proxies_are_switched_off_and_on_again(desk: Desk) -> None:
    desk.write(".m2/settings.xml", CORP)
    outcome = desk.proxy("maven")
    assert "the proxies corp, off are switched off until --undo" in outcome.notes
    text = (desk.directory / ".m2/settings.xml").read_text()
    assert "<port>3128</port><active>false</active></proxy>" in text
    assert text.index("<id>leeward</id>") < text.index("<id>corp</id>")
    (desk.directory / ".m2/settings.xml").write_text(text + "<!-- later -->\n")
    desk.no_proxy("maven")
    assert (desk.directory / ".m2/settings.xml").read_text() == CORP + "<!-- later -->\n"


def test_a_proxy_without_a_name_is_left_to_the_person(desk: Desk) -> None:
    desk.write(".m2/settings.xml", CORP.replace("<id>corp</id>", ""))
    with pytest.raises(ClientError, match="without an <id>"):
        desk.proxy("maven")
    assert (desk.directory / ".m2/settings.xml").read_text() == CORP.replace("<id>corp</id>", "")


def test_another_edge_takes_the_place_of_the_first(desk: Desk) -> None:
    for name, files in FILES.items():
        desk.proxy(name)
        desk.proxy(name, Given(Proxy("edge.test", 99), TRUST))
        text = "".join(content or "" for content in desk.contents(name))
        assert "edge.test" in text
        assert "4321" not in text
        desk.no_proxy(name)
        assert desk.contents(name) == [None for _ in files]


def test_credentials_make_a_file_that_is_its_owners_alone(desk: Desk) -> None:
    given = Given(Proxy("edge.test", 99, "me", "s€cret"), TRUST)
    for name, files in FILES.items():
        desk.proxy(name, given)
        for file in files:
            assert (desk.directory / file).stat().st_mode & 0o077 == 0, file
    assert "<username>me</username>" in (desk.directory / ".m2/settings.xml").read_text()
    assert "disabledSchemes=" in (desk.directory / ".mavenrc").read_text()
    properties = Properties().read((desk.directory / ".gradle/gradle.properties").read_text())
    assert properties["systemProp.https.proxyPassword"] == "s€cret"
    assert (desk.directory / ".gradle/gradle.properties").read_bytes().isascii()


def test_a_shell_reads_the_block_for_maven(desk: Desk) -> None:
    desk.proxy("maven")
    done = subprocess.run(
        ["/bin/sh", "-c", f". {desk.directory}/.mavenrc; sh -c 'echo \"$MAVEN_OPTS\"'"],
        env={"MAVEN_OPTS": "-Xmx1g"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("-Xmx1g -Djavax.net.ssl.trustStore=/ca/truststore.p12 -D")


@pytest.mark.parametrize("directory", ["/a b", "/$HOME", '/"', "/`"])
def test_what_mavens_start_script_could_not_read_is_not_written(desk: Desk, directory: str) -> None:
    with pytest.raises(ClientError, match="choose a data directory"):
        desk.proxy("maven", Given(GIVEN.proxy, Trust(TRUST.root, TRUST.bundle, Path(directory), "changeit")))
    assert desk.contents("maven") == [None, None]


def test_npm_reads_what_was_written(desk: Desk) -> None:
    desk.proxy("npm")
    for key, wanted in (("https-proxy", URL), ("noproxy", "localhost,127.0.0.1,::1")):
        done = subprocess.run(
            [*node.program("npm"), "config", "get", key],
            cwd=desk.directory,
            env=node.environment(desk.directory),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == wanted


@pytest.mark.parametrize("name", list(BY_VARIABLES))
def test_a_client_without_such_settings_gets_lines_for_a_shell(name: str) -> None:
    lines = variables(name, GIVEN)
    assert [line.split("=")[0] for line in lines][: len(BY_VARIABLES[name])] == [f"export {each}" for each in BY_VARIABLES[name]]
    text = subprocess.run(
        ["/bin/sh", "-c", "\n".join(lines) + "\nexport -p"], env={}, capture_output=True, text=True, check=True
    ).stdout
    assert has_proxy(text) or "NODE_EXTRA_CA_CERTS='/ca/root.pem'" in text
    with pytest.raises(ClientError, match="variables only"):
        proxied(name, GIVEN)


@pytest.mark.parametrize("url", ["https://edge.test", "ftp://edge.test", "http://", "http://[", "http://edge.test:port"])
def test_what_is_no_address_of_a_proxy(url: str) -> None:
    with pytest.raises(ClientError, match="no address of a proxy"):
        given_address(url)


def test_addresses_of_proxies() -> None:
    assert given_address("http://edge.test:99/") == ("edge.test", 99)
    assert given_address("edge.test") == ("edge.test", 80)


# ---- .properties -----------------------------------------------------------------------------------------------------

PROPERTIES = "! a comment\n\n a = 1\nb:2\nc 3 = 4\nlong=one,\\\n   two\nodd\\ key\\:=\\u00e9\\tx\nempty\na=5"


def test_properties_are_read_as_java_reads_them(tmp_path: Path) -> None:
    values = {"a": "5", "b": "2", "c": "3 = 4", "long": "one,two", "odd key:": "é\tx", "empty": ""}
    assert Properties().read(PROPERTIES) == values
    java = shutil.which("java")
    assert java is not None, "java is missing: `make test` installs Debian's package default-jdk-headless"
    (tmp_path / "Main.java").write_text(
        "public class Main { public static void main(String[] a) throws Exception { var p = new java.util.Properties();"
        " p.load(new java.io.FileReader(a[0]));"
        ' for (var k : p.stringPropertyNames()) System.out.println(k + "|" + p.getProperty(k)); } }'
    )
    (tmp_path / "p").write_text(edited(Properties(), PROPERTIES, [(("new key",), " é\\ 𝒳")], {}))
    done = subprocess.run(
        [java, "-Dstdout.encoding=UTF-8", "-Dfile.encoding=UTF-8", "Main.java", "p"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    told = dict(line.split("|", 1) for line in done.stdout.decode().splitlines())
    assert told == values | {"new key": " é\\ 𝒳"}


def test_properties_are_changed_where_they_stand() -> None:
    changed = PROPERTIES.replace("long=one,\\\n   two\n", "long=x\n").replace("b:2\n", "").replace("a=5", "a=6\n")
    assert edited(Properties(), PROPERTIES, [(("long",), "x"), (("b",), None), (("a",), "6")], {}) == changed
    assert edited(Properties(), "a=1\r\n", [(("b",), "2")], {}) == "a=1\r\nb=2\r\n"
    assert edited(Properties(), "a=1", [(("b",), "2")], {}) == "a=1\nb=2\n"
    with pytest.raises(ValueError, match="digits"):
        Properties().read("a=\\u12")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "EDGE_DATA"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    (tmp_path / "home").mkdir()
    monkeypatch.delenv("PIP_CONFIG_FILE", raising=False)
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr("edge.trust.ensure_trust", lambda _: TRUST)
    # Where nobody listens: an edge that runs on this machine has a root of its own.
    monkeypatch.setenv("EDGE_LISTEN", "127.0.0.1:9")
    return tmp_path / "home"


def test_the_command_says_what_it_did(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["use", "npm"]) == 0
    capsys.readouterr()
    assert command_line.main(["use", "--proxy", "npm", "--url", URL]) == 0
    told = capsys.readouterr()
    assert f"{at_home / '.npmrc'} now has npm go through {URL}" in told.out
    assert "edge use --proxy npm --undo takes it back" in told.out
    assert "note: npm is pointed at an edge's mirror too" in told.err
    assert command_line.main(["use", "npm", "--proxy", "--undo"]) == 0
    assert "is without what we wrote" in capsys.readouterr().out
    assert "proxy" not in (at_home / ".npmrc").read_text()


def test_the_command_prints_without_writing(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["use", "--proxy", "gradle", "--print"]) == 0
    assert "systemProp.https.proxyPort=9\n" in capsys.readouterr().out
    assert not (at_home / ".gradle").exists()


def test_a_client_that_takes_variables_only_has_exit_status_2(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["use", "--proxy", "uv"]) == 2
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == "export HTTPS_PROXY=http://127.0.0.1:9"
    assert "nothing was written" in told.err
    assert command_line.main(["use", "--proxy", "uv", "--undo"]) == 2
    assert list(at_home.iterdir()) == []


def test_what_serve_prints_tells_of_the_proxy() -> None:
    told = how_to("http://127.0.0.1:8080", default_registries(), proxy=True)
    assert "edge use --proxy NAME" in told
    assert "edge run -- COMMAND" in told
    assert "edge run" not in how_to("http://127.0.0.1:8080", default_registries())
