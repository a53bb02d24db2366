"""Pointing the clients of npm and Maven here and back; the real npm and Maven say whether they understood."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.clients import CLIENTS, ClientError, Outcome, Records, Surroundings, how_to, index_url, once, undo, use
from edge.configfiles import NPMRC, Format, MavenSettings, Repositories, YAMLLines, YarnRC
from origin.settings import RegistrySettings

URL = "http://127.0.0.1:8080/there/"
OTHER = "http://127.0.0.1:9999/else/"
AWAY = "http://mirror.test:8080/there/"
BOTH = {
    "npm": RegistrySettings(kind="npm", upstream="http://npm.test/", path="/npm/"),
    "maven": RegistrySettings(kind="maven", upstream="http://maven.test/", path="/maven/"),
}

FILES = {
    "npm": (".npmrc",),
    "pnpm": (".npmrc",),
    "yarn": (".yarnrc", ".yarnrc.yml"),
    "bun": (".bunfig.toml",),
    "maven": (".m2/settings.xml",),
    "gradle": (".gradle/init.d/leeward.init.gradle",),
    "sbt": (".sbt/repositories",),
}
MINE = {
    ".npmrc": "; mine\nfund=false\n",
    ".yarnrc": "# mine\nlastUpdateCheck 12\n",
    ".yarnrc.yml": "# mine\nnodeLinker: node-modules\n",
    ".bunfig.toml": "# mine\ntelemetry = false\n",
    ".m2/settings.xml": "<settings>\n  <!-- mine -->\n  <offline>false</offline>\n</settings>\n",
    ".gradle/init.d/leeward.init.gradle": "// mine\n",
    ".sbt/repositories": "# mine\n[repositories]\n  local\n  corp: http://corp.test/maven/\n",
}
EDITS = {
    ".npmrc": "audit=false\n",
    ".yarnrc": "childConcurrency 7\n",
    ".yarnrc.yml": "enableColors: false\n",
    ".bunfig.toml": "[test]\ncoverage = true\n",
    ".m2/settings.xml": "<!-- later -->\n",
    ".gradle/init.d/leeward.init.gradle": "println 'later'\n",
    ".sbt/repositories": "[boot]\n  directory: x\n",
}


@dataclass
class Desk:
    """A person's home, which is also the working directory."""

    directory: Path

    @property
    def here(self) -> Surroundings:
        return Surroundings({"HOME": str(self.directory)}, self.directory)

    @property
    def records(self) -> Records:
        return Records(self.directory / "state")

    def files(self, name: str) -> list[Path]:
        return [self.directory / file for file in FILES[name]]

    def write(self, file: str, content: str | bytes) -> Path:
        path = self.directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def mine(self, name: str) -> list[bytes]:
        return [self.write(file, MINE[file]).read_bytes() for file in FILES[name]]

    def contents(self, name: str) -> list[bytes | None]:
        return [file.read_bytes() if file.exists() else None for file in self.files(name)]

    def text(self, name: str) -> str:
        return "".join(file.read_text() for file in self.files(name))

    def use(self, name: str, url: str = URL, *, write: bool = True, **environ: str) -> Outcome:
        return use(CLIENTS[name], url, Surroundings({**self.here.environ, **environ}, self.directory), self.records, write)

    def undo(self, name: str, *, write: bool = True) -> Outcome:
        return undo(CLIENTS[name], self.here, self.records, write)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path.resolve())


every_client = pytest.mark.parametrize("name", list(FILES))


# ---- there and back


@every_client
def test_files_that_were_made_are_taken_away(desk: Desk, name: str) -> None:
    outcome = desk.use(name)
    assert [file.path for file in outcome.files] == desk.files(name)
    assert all(URL.encode() in (content or b"") for content in desk.contents(name))
    assert not desk.use(name).changed
    assert desk.undo(name).changed
    assert desk.contents(name) == [None for _ in FILES[name]]
    assert not list(desk.records.directory.glob("*.json"))


@every_client
def test_what_was_there_stays_and_comes_back(desk: Desk, name: str) -> None:
    before = desk.mine(name)
    desk.use(name)
    assert desk.text(name).count("mine") == len(FILES[name])
    desk.use(name, OTHER)
    assert OTHER in desk.text(name)
    assert URL not in desk.text(name)
    desk.undo(name)
    assert desk.contents(name) == before


@every_client
def test_printing_writes_nothing(desk: Desk, name: str) -> None:
    outcome = desk.use(name, write=False)
    assert all(URL.encode() in (file.after or b"") for file in outcome.files)
    assert not list(desk.directory.iterdir())
    desk.use(name)
    held = desk.contents(name)
    desk.undo(name, write=False)
    assert desk.contents(name) == held


@every_client
def test_an_edit_survives_undo_and_nothing_of_ours_does(desk: Desk, name: str) -> None:
    desk.mine(name)
    desk.use(name)
    for file in FILES[name]:
        path = desk.directory / file
        path.write_text(path.read_text() + EDITS[file])
    desk.undo(name)
    for file in FILES[name]:
        assert (desk.directory / file).read_text() == MINE[file] + EDITS[file]


@every_client
def test_an_address_somebody_changed_since_is_theirs(desk: Desk, name: str) -> None:
    desk.use(name)
    for file in desk.files(name):
        file.write_text(file.read_text().replace(URL, "http://theirs.test/"))
    desk.undo(name)
    if name != "maven":  # a mirror is ours as long as its address is
        assert "http://theirs.test/" in desk.text(name)
    assert not list(desk.records.directory.glob("*.json"))


@every_client
def test_undoing_nothing_changes_nothing(desk: Desk, name: str) -> None:
    outcome = desk.undo(name)
    assert not outcome.changed
    assert outcome.notes


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("yarn", ".yarnrc.yml", "{npmRegistryServer: x}\n"),
        ("yarn", ".yarnrc.yml", "a: 1\n---\nb: 2\n"),
        ("yarn", ".yarnrc", ', "\n'),
        ("maven", ".m2/settings.xml", "<settings>"),
        ("maven", ".m2/settings.xml", "<project/>"),
        ("maven", ".m2/settings.xml", "<!DOCTYPE settings [<!ENTITY a 'b'>]><settings>&a;</settings>"),
        ("maven", ".m2/settings.xml", "<settings><mirrors/><mirrors/></settings>"),
        ("sbt", ".sbt/repositories", "local\n"),
        ("bun", ".bunfig.toml", "[install\n"),
    ],
)
def test_what_cannot_be_read_is_left_alone(desk: Desk, name: str, file: str, text: str) -> None:
    path = desk.write(file, text)
    with pytest.raises(ClientError, match="nothing was changed"):
        desk.use(name)
    assert path.read_text() == text
    assert not list(desk.records.directory.glob("*.json"))
    assert [content for content in desk.contents(name) if content] == [text.encode()]


@given(st.binary(max_size=60))
def test_no_file_makes_use_stumble(content: bytes) -> None:
    for name, files in FILES.items():
        with tempfile.TemporaryDirectory() as directory:
            desk = Desk(Path(directory).resolve())
            for file in files:
                desk.write(file, content)
            try:
                desk.use(name)
            except ClientError:
                pass
            else:
                desk.undo(name)
            assert desk.contents(name) == [content for _ in files]


# ---- properties of the editors

words = st.text("abcxyz", min_size=1, max_size=5)
ends = st.sampled_from(["\n", "\r\n"])


def joined(draw: st.DrawFn, lines: list[str]) -> str:
    end = draw(ends)
    return end.join(lines) + (draw(st.sampled_from(["", end])) if lines else "")


@st.composite
def npmrcs(draw: st.DrawFn) -> str:
    line = st.sampled_from(
        [
            "registry=http://old.test/",
            "registry = http://old.test/ ; why",
            "; c",
            "# d",
            "",
            "@s:registry=http://s.test/",
            "ca[]=x",
            "[sec]",
            "registry",
            "always-auth",
            ' "registry" = "http://q.test/#x"',
            "//old.test/:_authToken=${T}",
            "a = b\\;c # e",
        ]
    )
    return joined(draw, draw(st.lists(line, max_size=7)))


@st.composite
def yarnrcs(draw: st.DrawFn) -> str:
    line = st.sampled_from(
        [
            'registry "http://old.test/" # c',
            "registry: http://old.test/",
            "# d",
            "",
            '"@s:registry" "http://s.test/"',
            "lastUpdateCheck 12",
            "env:\n  a b\n  # e",
            "--install.flat true",
            "flag",
        ]
    )
    return joined(draw, draw(st.lists(line, max_size=7)))


@st.composite
def yamls(draw: st.DrawFn) -> str:
    entries = [
        'npmRegistryServer: "http://old.test/" # c',
        "npmRegistryServer: http://old.test/",
        "npmRegistryServer:",
        "unsafeHttpWhitelist: [a.test, 'b.test'] # d",
        "unsafeHttpWhitelist: []",
        "unsafeHttpWhitelist:\n  - a.test # e\n  # f\n  - 'b.test'",
        "unsafeHttpWhitelist:\n- a.test",
        "npmScopes:\n  s:\n    npmRegistryServer: http://s.test/",
        "text: |\n  npmRegistryServer: no # g\n\n  x",
        "# h",
        "",
    ]
    chosen = draw(st.lists(st.sampled_from(entries), max_size=6))
    return joined(draw, [line for entry in chosen for line in entry.split("\n")])


@st.composite
def settings_files(draw: st.DrawFn) -> str:
    mirror = st.sampled_from(
        [
            "<mirror><id>a</id><mirrorOf>*</mirrorOf><url>http://a.test/</url></mirror>",
            "<mirror>\n  <id>b</id> <!-- c -->\n  <mirrorOf>central</mirrorOf>\n  <url>http://b.test/?x=1&amp;y=2</url>\n</mirror>",
            "<mirror><id>leeward</id><url>http://old.test/</url></mirror>",
            "<mirror/>",
            "<!-- d -->",
        ]
    )
    listed = draw(st.lists(mirror, max_size=3, unique=True))
    between = draw(st.sampled_from(["", "\n", "\n    "]))
    mirrors = draw(st.sampled_from(["<mirrors/>", f"<mirrors>{between}{between.join(listed)}{between}</mirrors>", ""]))
    parts = ["<servers><server><id>é</id><password>&lt;x&gt;</password></server></servers>", "<!-- e -->", "<offline/>", mirrors]
    body = between.join(draw(st.permutations(parts)))
    root = draw(st.sampled_from(["<settings>", '<settings xmlns="urn:x" a="b>c">']))
    head = draw(st.sampled_from(["", '<?xml version="1.0" encoding="UTF-8"?>\n', "<!-- f -->\n"]))
    return (head + root + between + body + between + "</settings>" + draw(st.sampled_from(["", "\n"]))).replace("\n", draw(ends))


@st.composite
def repository_files(draw: st.DrawFn) -> str:
    line = st.sampled_from(
        ["  local", "  maven-central", "# c", "", "  corp: http://c.test/, [organisation]/[module]", "  leeward: x"]
    )
    return joined(draw, ["[repositories]", *draw(st.lists(line, max_size=5, unique=True))])


configurations = st.one_of(
    st.tuples(st.just(("npm", 0)), npmrcs()),
    st.tuples(st.just(("yarn", 0)), yarnrcs()),
    st.tuples(st.just(("yarn", 1)), yamls()),
    st.tuples(st.just(("maven", 0)), settings_files()),
    st.tuples(st.just(("sbt", 0)), repository_files()),
)


@given(configurations, st.sampled_from([URL, AWAY, "https://mirror.test/x/?a=1&b=2"]))
def test_only_our_keys_change_and_edits_stay(configuration: tuple[tuple[str, int], str], url: str) -> None:
    """Use, an edit, undo: the file says what it said before and what was added, with every comment."""
    (name, which), text = configuration
    file = FILES[name][which]
    format_: Format = CLIENTS[name].files[which].format
    with tempfile.TemporaryDirectory() as directory:
        desk = Desk(Path(directory).resolve())
        path = desk.write(file, text)
        try:
            desk.use(name, url)
        except ClientError:
            assert path.read_bytes() == text.encode()
            assume(False)
        held = path.read_bytes().decode()
        for comment in re.findall(r"# [a-h]|; \w+|<!-- \w -->", text):
            assert held.count(comment) >= text.count(comment)
        edit = "<!-- later -->" if name == "maven" else f"\n{EDITS[file]}"
        path.write_bytes(held.encode() + edit.encode())
        desk.undo(name)
        left = path.read_bytes().decode()
        assert url not in left
        assert format_.read(left) == format_.read(text + edit)
        for comment in re.findall(r"# [a-h]|; \w+|<!-- \w -->", text):
            assert left.count(comment) == text.count(comment)


@given(configurations)
def test_use_and_undo_together_change_nothing(configuration: tuple[tuple[str, int], str]) -> None:
    (name, which), text = configuration
    with tempfile.TemporaryDirectory() as directory:
        desk = Desk(Path(directory).resolve())
        path = desk.write(FILES[name][which], text)
        try:
            desk.use(name)
        except ClientError:
            assume(False)
        assert URL in path.read_text()
        desk.undo(name)
        assert path.read_bytes() == text.encode()


# ---- npm and its kin


def test_npm_keeps_the_rest_and_tells_what_goes_past(desk: Desk) -> None:
    text = "; c\n@corp:registry=http://corp.test/\nregistry = http://old.test/ ; why\n//old.test/:_authToken=${TOKEN}\n"
    path = desk.write(".npmrc", text)
    notes = desk.use("npm", npm_config_registry="http://x.test/").notes
    assert path.read_text() == text.replace("http://old.test/ ;", f"{URL} ;")
    assert any(note.startswith("@corp keep") for note in notes)
    assert any(note.startswith("npm_config_registry is set") for note in notes)
    assert any("replace-registry-host=always" in note for note in notes)


@pytest.mark.parametrize("variable", ["NPM_CONFIG_USERCONFIG", "npm_config_userconfig"])
def test_npm_writes_the_file_it_is_told_to_read(desk: Desk, variable: str) -> None:
    named = desk.directory / "ci.npmrc"
    here = Surroundings({**desk.here.environ, variable: str(named)}, desk.directory)
    assert use(CLIENTS["npm"], URL, here, desk.records).path == named
    assert named.read_text() == f"registry={URL}\n"
    assert not (desk.directory / ".npmrc").exists()


def test_npm_and_pnpm_are_undone_as_one_since_they_share_a_file(desk: Desk) -> None:
    before = desk.mine("npm")
    desk.use("npm")
    assert not desk.use("pnpm").changed
    desk.undo("npm")
    assert not desk.undo("pnpm").changed
    assert desk.contents("npm") == before


def test_pnpms_own_files_that_win_are_told(desk: Desk) -> None:
    desk.write(".config/pnpm/config.yaml", "registry: http://old.test/\n")
    desk.write(".config/pnpm/rc", "registry=http://old.test/\n")
    told = [note for note in desk.use("pnpm").notes if "pnpm 11" in note]
    assert len(told) == 1
    assert "config.yaml" in told[0]


def test_a_projects_own_registry_is_told(desk: Desk) -> None:
    project = desk.directory / "project"
    project.mkdir()
    (project / ".npmrc").write_text("registry=http://corp.test/\n")
    here = Surroundings(desk.here.environ, project)
    assert any("wins here" in note for note in use(CLIENTS["npm"], URL, here, desk.records).notes)


def test_yarn_is_told_of_plain_http_and_no_host_twice(desk: Desk) -> None:
    path = desk.write(".yarnrc.yml", "unsafeHttpWhitelist: ['mirror.test', x.test] # c\n")
    desk.use("yarn", AWAY)
    assert path.read_text() == f"unsafeHttpWhitelist: ['mirror.test', x.test] # c\nnpmRegistryServer: \"{AWAY}\"\n"
    desk.use("yarn")
    assert "unsafeHttpWhitelist: ['mirror.test', x.test, \"127.0.0.1\"] # c\n" in path.read_text()
    desk.use("yarn", "https://mirror.test/npm/")
    assert "127.0.0.1" not in path.read_text()


def test_both_yarns_are_undone_together_and_neither_is_written_if_one_cannot_be(desk: Desk) -> None:
    classic = desk.write(".yarnrc", MINE[".yarnrc"])
    desk.write(".yarnrc.yml", "unsafeHttpWhitelist:\n  a: 1\n")
    with pytest.raises(ClientError, match="by hand"):
        desk.use("yarn")
    assert classic.read_text() == MINE[".yarnrc"]


def test_yarn_1_asks_npms_registry_first_which_is_told(desk: Desk) -> None:
    desk.write(".npmrc", "registry=http://old.test/\n")
    assert any("edge use npm" in note for note in desk.use("yarn").notes)


def test_buns_file_is_where_bun_looks_and_a_foreign_token_is_left_out(desk: Desk) -> None:
    config = desk.directory / "xdg"
    text = (
        '[install]\nregistry = {url = "http://old.test/", token = "secret"} # c\n[install.scopes]\ncorp = "http://corp.test/"\n'
    )
    path = desk.write("xdg/.bunfig.toml", text)
    outcome = desk.use("bun", XDG_CONFIG_HOME=str(config))
    assert outcome.path == path
    assert "secret" not in path.read_text()
    assert "# c" in path.read_text()
    assert any("@corp" in note for note in outcome.notes)
    assert any("bun.lock" in note for note in outcome.notes)
    undo(CLIENTS["bun"], Surroundings({**desk.here.environ, "XDG_CONFIG_HOME": str(config)}, desk.directory), desk.records)
    assert path.read_text() == text


# ---- Maven and its kin


def test_mavens_mirror_goes_first_and_the_others_stay(desk: Desk) -> None:
    text = "<settings>\n\t<!-- c -->\n\t<mirrors>\n\t\t<mirror><id>corp</id><mirrorOf>*</mirrorOf></mirror>\n\t</mirrors>\n</settings>"
    text = text.replace("\n", "\r\n")
    path = desk.write(".m2/settings.xml", text)
    notes = desk.use("maven", "http://mirror.test/maven/?a=1&b=2").notes
    assert any(note.startswith("the mirror corp was Central's until now") for note in notes)
    told = [
        "<mirror>",
        "\t<id>leeward</id>",
        "\t<mirrorOf>central</mirrorOf>",
        "\t<url>http://mirror.test/maven/?a=1&amp;b=2</url>",
    ]
    ours = "".join(f"\r\n\t\t{line}" for line in [*told, "</mirror>"])
    assert path.read_bytes().decode() == text.replace("<mirrors>", f"<mirrors>{ours}")


@pytest.mark.parametrize(
    ("mirror_of", "told"),
    [("central", 1), ("a, *", 1), ("external:*", 1), ("*,!central", 0), ("other", 0), ("external:http:*", 0)],
)
def test_a_mirror_that_covered_central_is_told(desk: Desk, mirror_of: str, told: int) -> None:
    mirror = f"<mirror><id>x</id><mirrorOf>{mirror_of}</mirrorOf><url>u</url></mirror>"
    desk.write(".m2/settings.xml", f"<settings><mirrors>{mirror}</mirrors></settings>")
    assert len([note for note in desk.use("maven").notes if "until now" in note]) == told


def test_plain_http_to_another_machine_is_told_of(desk: Desk) -> None:
    assert any("plain HTTP" in note for note in desk.use("maven", AWAY).notes)
    assert not any("plain HTTP" in note for url in (URL, "https://mirror.test/") for note in desk.use("maven", url).notes)


def test_a_mirror_named_like_ours_is_moved_and_moved_back(desk: Desk) -> None:
    text = "<settings><mirrors><mirror><id>leeward</id><url>http://old.test/</url></mirror></mirrors></settings>"
    path = desk.write(".m2/settings.xml", text)
    desk.use("maven")
    (mirror,) = ET.fromstring(path.read_text()).iter("mirror")  # noqa: S314  # our own text
    assert {child.tag: child.text for child in mirror} == {"id": "leeward", "url": URL, "mirrorOf": "central"}
    desk.undo("maven")
    assert path.read_text() == text


def test_another_encoding_stays(desk: Desk) -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<settings><!-- é --></settings>\n'.encode("latin-1")
    path = desk.write(".m2/settings.xml", text)
    desk.use("maven")
    assert "é".encode("latin-1") in path.read_bytes()
    desk.undo("maven")
    assert path.read_bytes() == text


@pytest.mark.parametrize("body", ["<settings/>", "<settings></settings>"])
def test_an_encoding_that_cannot_be_edited_is_told(desk: Desk, body: str) -> None:
    content = f'<?xml version="1.0" encoding="UTF-16"?>{body}'.encode("utf-16")
    path = desk.write(".m2/settings.xml", content)
    with pytest.raises(ClientError, match="encoding without ASCII"):
        desk.use("maven")
    assert path.read_bytes() == content


def test_a_byte_order_mark_stays(desk: Desk) -> None:
    path = desk.write(".m2/settings.xml", b"\xef\xbb\xbf<settings>\n</settings>\n")
    desk.use("maven")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf<settings>\n  <mirrors>\n")


def test_gradles_script_is_where_gradle_looks(desk: Desk) -> None:
    home = desk.directory / "elsewhere"
    outcome = desk.use("gradle", AWAY, GRADLE_USER_HOME=str(home))
    assert outcome.path == home / "init.d" / "leeward.init.gradle"
    assert f"new URI('{AWAY}')" in outcome.path.read_text()


def test_a_gradle_script_somebody_changed_is_theirs(desk: Desk) -> None:
    desk.use("gradle")
    (path,) = desk.files("gradle")
    path.write_text(path.read_text().replace("MavenRepo", "Mine"))
    assert desk.undo("gradle").notes == ("url was changed since, and stays as it is",)
    assert "'Mine'" in path.read_text()


def test_sbt_has_no_central_behind_the_edge(desk: Desk) -> None:
    path = desk.write(".sbt/repositories", "[repositories]\n  local\n  maven-central\n  corp: http://corp.test/\n")
    notes = desk.use("sbt").notes
    listed = f"[repositories]\n  local\n  maven-central: {URL}, allowInsecureProtocol\n  corp: http://corp.test/\n"
    assert path.read_text() == listed
    assert any("sbt.override.build.repos" in note for note in notes)
    assert any(note.startswith("corp stay") for note in notes)
    desk.use("sbt", "https://mirror.test/maven/")
    assert "allowInsecureProtocol" not in path.read_text()


# ---- addresses


def test_an_edges_address_becomes_a_registrys() -> None:
    assert index_url(CLIENTS["npm"], "http://a.test:1", BOTH) == "http://a.test:1/npm/"
    assert index_url(CLIENTS["gradle"], "http://a.test:1/", BOTH) == "http://a.test:1/maven/"
    assert index_url(CLIENTS["bun"], "http://a.test/other", {}) == "http://a.test/other/"
    with pytest.raises(ClientError, match="no maven registry"):
        index_url(CLIENTS["maven"], "http://a.test", {"npm": BOTH["npm"]})


def test_how_to_has_a_line_for_each_family() -> None:
    told = how_to("http://127.0.0.1:8080", BOTH)
    assert "edge use npm (or pnpm, yarn, bun), or once: npm install --registry=http://127.0.0.1:8080/npm/ NAME" in told
    assert "edge use maven (or gradle, sbt)" in told
    assert len(told.splitlines()) <= 2 * len(BOTH) + 2
    assert "YARN_UNSAFE_HTTP_WHITELIST=mirror.test " in once(CLIENTS["yarn"], AWAY)


# ---- the real clients


def ask(desk: Desk, *command: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    environ = {"HOME": str(desk.directory), "PATH": os.environ["PATH"], "npm_config_globalconfig": os.devnull}
    done = subprocess.run([program, *command[1:]], cwd=desk.directory, env=environ, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_real_npm_reads_what_was_written(desk: Desk) -> None:
    desk.write(".npmrc", "; c\nregistry=http://old.test/ ; why\nfund=false")
    desk.use("npm", AWAY)
    assert ask(desk, "npm", "config", "get", "registry").split() == [AWAY]
    assert ask(desk, "npm", "config", "get", "fund").split() == ["false"]


def test_the_real_maven_asks_here(desk: Desk) -> None:
    # Nothing listens on port 1: the address Maven complains about is the one it asked.
    mirror = "<mirror><id>old</id><mirrorOf>central</mirrorOf><url>http://127.0.0.1:2/</url></mirror>"
    desk.write(".m2/settings.xml", f"<settings>\n<mirrors>{mirror}</mirrors>\n</settings>")
    desk.use("maven", "http://127.0.0.1:1/maven/")
    parent = "<parent><groupId>p</groupId><artifactId>q</artifactId><version>1</version><relativePath/></parent>"
    desk.write("pom.xml", f"<project><modelVersion>4.0.0</modelVersion>{parent}<artifactId>a</artifactId></project>")
    told = ask(desk, "mvn", "-B", f"-Duser.home={desk.directory}", "validate")
    assert "leeward (http://127.0.0.1:1/maven/)" in told
    assert "127.0.0.1:2" not in told


def test_rows_and_formats_belong_together() -> None:
    kinds = {name: [type(file.format) for file in CLIENTS[name].files] for name in ("npm", "pnpm", "yarn", "maven", "sbt")}
    assert kinds == {
        "npm": [NPMRC],
        "pnpm": [NPMRC],
        "yarn": [YarnRC, YAMLLines],
        "maven": [MavenSettings],
        "sbt": [Repositories],
    }


def test_the_command_line_offers_every_client() -> None:
    from edge.__main__ import _CLIENTS

    assert set(_CLIENTS) == set(CLIENTS)
