"""Pointing clients here and back, never losing what was there; the real clients say whether they understood."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.clients import CLIENTS, ClientError, Outcome, Records, Surroundings, how_to, index_url, undo, use
from edge.configfiles import INI, TOML
from origin.settings import RegistrySettings

URL = "http://127.0.0.1:8080/pypi/simple/"
OTHER = "http://127.0.0.1:9999/pypi/simple/"
TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "venv" / "bin"
PYPI = {"pypi": RegistrySettings(kind="pypi", upstream="http://pypi.test/simple/", path="/pypi/")}

FILES = {"pip": ".config/pip/pip.conf", "uv": ".config/uv/uv.toml", "pdm": ".config/pdm/config.toml", "poetry": "pyproject.toml"}


@dataclass
class Desk:
    """A person's home and working directory, both in one place."""

    directory: Path

    @property
    def here(self) -> Surroundings:
        return Surroundings({"HOME": str(self.directory)}, self.directory)

    @property
    def records(self) -> Records:
        return Records(self.directory / "state")

    def file(self, name: str) -> Path:
        return self.directory / FILES[name]

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def use(self, name: str, url: str = URL, write: bool = True) -> Outcome:
        return use(CLIENTS[name], url, self.here, self.records, write)

    def undo(self, name: str, write: bool = True) -> Outcome:
        return undo(CLIENTS[name], self.here, self.records, write)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path.resolve())


@contextlib.contextmanager
def new_desk() -> Iterator[Desk]:
    """A desk for one example of a property."""
    with tempfile.TemporaryDirectory() as directory:
        yield Desk(Path(directory).resolve())


def prepared(desk: Desk, name: str) -> None:
    """What a client needs to be there: Poetry a project."""
    if name == "poetry":
        desk.write(name, '[project]\nname = "x"\nversion = "1"\n')


# ---- there and back

PYTHONS = [name for name, client in CLIENTS.items() if client.kind == "pypi"]
every_client = pytest.mark.parametrize("name", PYTHONS)


@every_client
def test_a_client_is_pointed_here_and_back(desk: Desk, name: str) -> None:
    prepared(desk, name)
    before = desk.file(name).read_bytes() if desk.file(name).exists() else None
    outcome = desk.use(name)
    assert outcome.changed
    assert outcome.path == desk.file(name)
    assert URL in desk.file(name).read_text()
    assert desk.undo(name).changed
    assert (desk.file(name).read_bytes() if desk.file(name).exists() else None) == before
    assert not list(desk.records.directory.glob("*.json"))


@every_client
def test_doing_it_twice_is_doing_it_once(desk: Desk, name: str) -> None:
    prepared(desk, name)
    desk.use(name)
    once = desk.file(name).read_bytes()
    assert not desk.use(name).changed
    assert desk.file(name).read_bytes() == once


@every_client
def test_pointing_elsewhere_keeps_the_first_original(desk: Desk, name: str) -> None:
    prepared(desk, name)
    before = desk.file(name).read_bytes() if desk.file(name).exists() else None
    for url in (URL, OTHER, "http://mirror.test/pypi/simple/", OTHER):
        desk.use(name, url)
    text = desk.file(name).read_text()
    assert OTHER in text
    assert URL not in text
    assert "mirror.test" not in text
    desk.undo(name)
    assert (desk.file(name).read_bytes() if desk.file(name).exists() else None) == before


@every_client
def test_printing_writes_nothing(desk: Desk, name: str) -> None:
    prepared(desk, name)
    listed = sorted(desk.directory.rglob("*"))
    outcome = desk.use(name, write=False)
    assert outcome.after is not None
    assert URL.encode() in outcome.after
    assert sorted(desk.directory.rglob("*")) == listed
    desk.use(name)
    held = desk.file(name).read_bytes()
    desk.undo(name, write=False)
    assert desk.file(name).read_bytes() == held


@every_client
def test_undoing_nothing_changes_nothing(desk: Desk, name: str) -> None:
    prepared(desk, name)
    outcome = desk.undo(name)
    assert not outcome.changed
    assert outcome.notes


@every_client
def test_a_later_edit_survives_pointing_elsewhere_and_undo(desk: Desk, name: str) -> None:
    prepared(desk, name)
    desk.use(name)
    with desk.file(name).open("a") as file:
        file.write("\n# mine\n" + ("[install]\ntimeout = 7\n" if name == "pip" else "[mine]\nkept = 7\n"))
    desk.use(name, OTHER)
    assert "# mine" in desk.file(name).read_text()
    desk.undo(name)
    text = desk.file(name).read_text()
    assert "# mine" in text
    assert "= 7" in text
    assert "127.0.0.1" not in text


@every_client
def test_a_key_somebody_changed_since_is_theirs(desk: Desk, name: str) -> None:
    prepared(desk, name)
    desk.use(name)
    text = desk.file(name).read_text()
    desk.file(name).write_text(text.replace(URL, "http://theirs.test/simple/"))
    desk.undo(name)
    assert "http://theirs.test/simple/" in desk.file(name).read_text()


@pytest.mark.parametrize("name", ["pip", "uv", "pdm"])
def test_a_file_that_was_only_ours_and_is_gone_stays_gone(desk: Desk, name: str) -> None:
    desk.use(name)
    desk.file(name).unlink()
    assert not desk.undo(name).changed
    assert not desk.file(name).exists()


MINE = {
    "pip": "[global]\ntimeout = 9\n",
    "uv": 'cache-dir = "c"\n',
    "pdm": "check_update = false\n",
    "poetry": '[project]\nname = "x"\n',
}


@every_client
def test_undo_brings_back_the_original_of_a_file_that_is_gone(desk: Desk, name: str) -> None:
    file = desk.write(name, MINE[name])
    desk.use(name)
    file.unlink()
    assert desk.undo(name).changed
    assert file.read_text() == MINE[name]


@pytest.mark.parametrize("name", ["pip", "uv", "pdm"])
def test_using_again_after_the_file_is_gone_keeps_its_original(desk: Desk, name: str) -> None:
    file = desk.write(name, MINE[name])
    desk.use(name)
    file.unlink()
    desk.use(name, OTHER)
    assert OTHER in file.read_text()
    desk.undo(name)
    assert file.read_text() == MINE[name]


@pytest.mark.parametrize(
    "edit", ["[pypi.url]\nmine = 1\n", "[pypi]\nurl = {mine = 1}\n", "[pypi]\nurl = 7\n", '[[pypi]]\nurl = "x"\n']
)
def test_a_key_somebody_made_something_else_of_is_left_and_told(desk: Desk, edit: str) -> None:
    desk.use("pdm")
    desk.write("pdm", edit)
    outcome = desk.undo("pdm")
    assert not outcome.changed
    assert desk.file("pdm").read_text() == edit
    assert outcome.notes == (() if edit.startswith("[[") else ("pypi.url was changed since, and stays as it is",))
    assert not list(desk.records.directory.glob("*.json"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pdm", "pypi = 3\n"),
        ("pdm", '[[pypi]]\nurl = "x"\n'),
        ("uv", 'index = "x"\n'),
        ("uv", "[index]\ndefault = true\n"),
        ("poetry", "[tool]\npoetry = 3\n"),
    ],
)
def test_a_value_where_a_table_belongs_is_left_alone(desk: Desk, name: str, text: str) -> None:
    file = desk.write(name, text)
    with pytest.raises(ClientError, match="was not changed: something else stands where a table belongs"):
        desk.use(name)
    assert file.read_text() == text


@every_client
def test_what_cannot_be_read_is_left_alone(desk: Desk, name: str) -> None:
    broken = "[global\nindex-url\n = ="
    file = desk.write(name, broken)
    with pytest.raises(ClientError, match="nothing was changed"):
        desk.use(name)
    assert file.read_text() == broken
    assert not list(desk.records.directory.glob("*.json"))


@every_client
def test_a_link_stays_a_link_and_a_mode_stays_a_mode(desk: Desk, name: str) -> None:
    real = desk.directory / "dotfiles" / "real"
    real.parent.mkdir()
    real.write_text("")
    real.chmod(0o640)
    desk.file(name).parent.mkdir(parents=True, exist_ok=True)
    desk.file(name).symlink_to(real)
    desk.use(name)
    assert desk.file(name).is_symlink()
    assert URL in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    desk.undo(name)
    assert real.read_text() == ""
    assert desk.file(name).is_symlink()


@every_client
def test_a_crash_between_record_and_file_harms_nothing(desk: Desk, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(desk, name)
    before = desk.file(name).read_bytes() if desk.file(name).exists() else None

    def crash(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("edge.clients.records._write", crash)
        with pytest.raises(OSError, match="power cut"):
            desk.use(name)
    desk.undo(name)
    assert (desk.file(name).read_bytes() if desk.file(name).exists() else None) == before

    desk.use(name)
    with monkeypatch.context() as patch:
        patch.setattr("edge.clients.records._write", crash)
        with pytest.raises(OSError, match="power cut"):
            desk.use(name, OTHER)
    with desk.file(name).open("a") as file:
        file.write("# mine\n")
    desk.undo(name)
    left = desk.file(name).read_text()
    assert "# mine" in left
    assert "127.0.0.1" not in left


# ---- pip


def test_pip_keeps_comments_order_and_line_ends(desk: Desk) -> None:
    text = "# mine\n[install]\nuser = yes\n\n[global]\n; why\ntimeout = 60\nindex_url = http://old.test/simple ; not a comment\n"
    text = text.replace("\n", "\r\n")
    file = desk.write("pip", text)
    desk.use("pip")
    wanted = text.replace("index_url = http://old.test/simple ; not a comment", f"index_url = {URL}")
    assert file.read_bytes() == wanted.encode()
    file.write_bytes(file.read_bytes() + b"# later\r\n")
    desk.undo("pip")
    assert file.read_bytes() == text.encode() + b"# later\r\n"


def test_pip_is_pointed_here_for_commands_with_an_index_of_their_own(desk: Desk) -> None:
    file = desk.write("pip", "[global]\ntimeout = 9\n[install]\nindex-url = http://old.test/simple\n")
    desk.use("pip")
    assert INI().read(file.read_text())["install"]["index-url"] == URL
    assert INI().read(file.read_text())["global"] == {"index-url": URL, "timeout": "9"}


def test_pip_trusts_plain_http_elsewhere_and_keeps_whom_it_trusted(desk: Desk) -> None:
    text = "[global]\ntrusted-host =\n    a.test\n    b.test\n"
    file = desk.write("pip", text)
    desk.use("pip", "http://mirror.test:8080/pypi/simple/")
    assert INI().read(file.read_text())["global"]["trusted-host"].split() == ["a.test", "b.test", "mirror.test:8080"]
    file.write_text(file.read_text() + "# mine\n")
    desk.undo("pip")
    assert file.read_text() == text + "# mine\n"
    desk.use("pip", "https://mirror.test/pypi/simple/")
    assert "mirror.test:" not in file.read_text()


def test_pip_reads_the_file_it_is_told_to(desk: Desk) -> None:
    named = desk.directory / "ci.conf"
    here = Surroundings({"HOME": str(desk.directory), "PIP_CONFIG_FILE": str(named)}, desk.directory)
    use(CLIENTS["pip"], URL, here, desk.records)
    assert URL in named.read_text()
    undo(CLIENTS["pip"], here, desk.records)
    assert not named.exists()
    nothing = Surroundings({"HOME": str(desk.directory), "PIP_CONFIG_FILE": os.devnull}, desk.directory)
    with pytest.raises(ClientError, match="unset it first"):
        use(CLIENTS["pip"], URL, nothing, desk.records)


def test_pips_old_file_is_used_where_it_is_the_only_one(desk: Desk) -> None:
    old = desk.directory / ".pip" / "pip.conf"
    old.parent.mkdir()
    old.write_text("[global]\ntimeout = 9\n")
    desk.use("pip")
    assert URL in old.read_text()
    assert not desk.file("pip").exists()
    assert "there is a record of" not in "".join(desk.undo("pip").notes)
    desk.write("pip", "")
    assert desk.use("pip").path == desk.file("pip")


def test_a_second_index_and_a_variable_that_wins_are_told(desk: Desk) -> None:
    desk.write("pip", "[global]\nextra-index-url = http://internal.test/simple\n")
    here = Surroundings({"HOME": str(desk.directory), "PIP_INDEX_URL": "http://x.test"}, desk.directory)
    notes = use(CLIENTS["pip"], URL, here, desk.records).notes
    assert any("extra-index-url" in note for note in notes)
    assert any("PIP_INDEX_URL" in note for note in notes)


# ---- TOML clients


def test_uvs_default_index_is_moved_and_moved_back(desk: Desk) -> None:
    text = '# top\n[[index]]\nname = "corp" # ours\nurl = "http://corp.test/simple/" # really\ndefault = true\n\n[pip]\nstrict = true\n'
    file = desk.write("uv", text)
    desk.use("uv")
    assert file.read_text() == text.replace("http://corp.test/simple/", URL)
    file.write_text(file.read_text() + "# mine\n")
    desk.undo("uv")
    assert file.read_text() == text + "# mine\n"


def test_uvs_other_indexes_stay_and_are_told(desk: Desk) -> None:
    text = '[[index]]\nname = "torch"\nurl = "http://torch.test/simple/"\n'
    desk.write("uv", text)
    notes = desk.use("uv").notes
    assert any("past this edge" in note for note in notes)
    assert any("uv lock makes it anew" in note for note in notes)
    indexes = tomllib.loads(desk.file("uv").read_text())["index"]
    assert [index["url"] for index in indexes] == ["http://torch.test/simple/", URL]


@pytest.mark.parametrize(
    "text",
    [
        'index = [{name = "torch", url = "http://torch.test/simple/"}] # c\n',
        'index = [\n  # c\n  {name = "torch", url = "http://torch.test/simple/"},\n]\n',
        "index = []\n",
    ],
)
def test_uvs_indexes_may_be_written_as_a_list(desk: Desk, text: str) -> None:
    file = desk.write("uv", text)
    desk.use("uv")
    assert tomllib.loads(file.read_text())["index"][-1] == {"url": URL, "default": True}
    assert file.read_text().count("#") == text.count("#")
    file.write_text(file.read_text() + "# mine\n")
    desk.undo("uv")
    assert tomllib.loads(file.read_text()) == tomllib.loads(text)


def test_poetry_is_found_above_and_must_be_there(desk: Desk) -> None:
    below = desk.directory / "src" / "deep"
    below.mkdir(parents=True)
    here = Surroundings({"HOME": str(desk.directory)}, below)
    with pytest.raises(ClientError, match="Poetry project"):
        use(CLIENTS["poetry"], URL, here, desk.records)
    prepared(desk, "poetry")
    use(CLIENTS["poetry"], URL, here, desk.records)
    (source,) = tomllib.loads(desk.file("poetry").read_text())["tool"]["poetry"]["source"]
    assert source == {"name": "leeward", "url": URL, "priority": "primary"}


@pytest.mark.parametrize(
    "text",
    [
        "[tool.poetry]\nname = 'x'\n\n[tool.poetry.dependencies]\nsix = '*' # six\n\n[build-system]\nrequires = []\n",
        "[[tool.poetry.source]]\nname = 'a'\nurl = 'http://a.test/'\npriority = 'explicit'\n\n[tool.ruff]\nx = 1\n",
        "[[tool.poetry.source]]\nname = 'leeward'\nurl = 'http://a.test/'\n",
        "tool.poetry.name = 'x'\n",
        "tool = {poetry = {name = 'x'}}\n",
    ],
)
def test_poetrys_project_is_kept(desk: Desk, text: str) -> None:
    file = desk.write("poetry", text)
    desk.use("poetry")
    found = tomllib.loads(file.read_text())["tool"]["poetry"]["source"]
    assert [s["url"] for s in found if s["name"] == "leeward"] == [URL]
    file.write_text(file.read_text() + "\n# mine\n")
    desk.undo("poetry")
    assert tomllib.loads(file.read_text()) == tomllib.loads(text)
    assert file.read_text().count("#") == text.count("#") + 1


@pytest.mark.parametrize(
    "text",
    [
        "[pypi]\nverify_ssl = true # yes\n",
        "pypi.url = 'http://a.test'\n",
        "pypi = {json_api = false}\n",
        "[pypi.nested]\na = 1\n",
    ],
)
def test_pdms_settings_are_kept(desk: Desk, text: str) -> None:
    file = desk.write("pdm", text)
    desk.use("pdm", "http://mirror.test/pypi/simple/")
    pypi = tomllib.loads(file.read_text())["pypi"]
    assert pypi["url"] == "http://mirror.test/pypi/simple/"
    assert pypi["verify_ssl"] is False
    file.write_text(file.read_text() + "# mine\n")
    desk.undo("pdm")
    assert tomllib.loads(file.read_text()) == tomllib.loads(text)


def test_a_file_with_credentials_is_its_owners_alone(desk: Desk) -> None:
    desk.use("pip", "http://me:secret@127.0.0.1:8080/pypi/simple/")
    assert stat.S_IMODE(desk.file("pip").stat().st_mode) == 0o600
    (record,) = desk.records.directory.glob("*.json")
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


# ---- properties

words = st.text("abcxyz", min_size=1, max_size=5)
ini_values = st.lists(st.text("ab1:/=%. ", max_size=8).map(str.strip), min_size=1, max_size=3)


@st.composite
def ini_files(draw: st.DrawFn) -> str:
    lines: list[str] = []
    sections = st.sampled_from(["global", "install", "list", "DEFAULT"])
    options = st.sampled_from(["index-url", "index_url", "Timeout", "trusted-host", "find-links"])
    for section in draw(st.lists(sections, unique=True)):
        lines += draw(st.sampled_from([[], ["# c"], ["", "; c"]]))
        lines.append(f"[{section}]")
        for option in draw(st.lists(options, unique=True)):
            lines += draw(st.sampled_from([[], ["# c"], [""], ["   # c"]]))
            first, *rest = draw(ini_values)
            lines.append(f"{option}{draw(st.sampled_from([' = ', '=', ': ', ' =']))}{first}")
            lines += [f"    {line}" for line in rest if line and line[0] not in "#;"]
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines) + draw(st.sampled_from(["", end, end * 2]))


scalars = st.one_of(
    st.booleans(), st.integers(-9, 9), words, st.sampled_from(["http://a.test/simple/", "#", "'", '"', "\\", "é", URL])
)


def toml_scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@st.composite
def toml_files(draw: st.DrawFn) -> str:
    """Documents around the keys that are edited: tables, arrays of tables, dotted and inline forms, comments everywhere."""
    keys = st.sampled_from(["url", "default", "name", "priority", "verify_ssl", "x"])
    pairs = st.dictionaries(keys, scalars, max_size=3)
    comment = st.sampled_from(["", " # c", "\t# d"])
    lines: list[str] = [f"{key} = {toml_scalar(value)}{draw(comment)}" for key, value in draw(pairs).items()]
    heads = [
        "[pypi]",
        "[[index]]",
        "[[index]]",
        "[tool.poetry]",
        "[[tool.poetry.source]]",
        "[tool.x]",
        "[pip]",
        "[[tool.poetry.source]]",
    ]
    for head in draw(st.lists(st.sampled_from(heads), max_size=5)):
        lines += draw(st.sampled_from([[], [""], ["# c"], ["", "  # c"]]))
        lines.append(head + draw(comment))
        lines += [f"{key} = {toml_scalar(value)}{draw(comment)}" for key, value in draw(pairs).items()]
    if draw(st.booleans()):
        inline = ", ".join(f"{key} = {toml_scalar(value)}" for key, value in draw(pairs).items())
        lines.insert(
            0, draw(st.sampled_from(["index = [{%s}]", "pypi = {%s}", "tool = {x = {%s}}", "tool.poetry = {%s}"])) % inline
        )
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines) + draw(st.sampled_from(["", end]))


configurations = st.one_of(
    st.tuples(st.just("pip"), ini_files()), st.tuples(st.sampled_from(["uv", "poetry", "pdm"]), toml_files())
)


def accepted(desk: Desk, name: str, text: str) -> None:
    """Write ``text`` and point the client here; only what the client itself could read is of interest."""
    try:
        CLIENTS[name].files[0].format.read(text)
    except ValueError:
        assume(False)
    desk.write(name, text)
    desk.use(name)


@given(configurations)
def test_use_and_undo_together_change_nothing(configuration: tuple[str, str]) -> None:
    name, text = configuration
    with new_desk() as desk:
        accepted(desk, name, text)
        held = desk.file(name).read_text()
        assert held.count("#") >= text.count("#")
        assert URL in held
        desk.undo(name)
        assert desk.file(name).read_bytes() == text.encode()


@given(configurations)
def test_use_edit_undo_keeps_the_edit_and_nothing_of_ours(configuration: tuple[str, str]) -> None:
    name, text = configuration
    with new_desk() as desk:
        accepted(desk, name, text)
        edit = "[mine]\nkept = 7\n"
        desk.file(name).write_bytes(desk.file(name).read_bytes() + b"\n" + edit.encode())
        desk.undo(name)
        format_ = CLIENTS[name].files[0].format
        left = desk.file(name).read_bytes().decode()
        assert format_.read(left) == format_.read(text) | format_.read(edit)
        for comment in ("# c", "# d", "; c"):
            assert left.count(comment) == text.count(comment)


@given(st.binary(max_size=60))
def test_no_file_makes_use_stumble(content: bytes) -> None:
    for name in PYTHONS:
        with new_desk() as desk:
            file = desk.write(name, content)
            try:
                desk.use(name)
            except ClientError:
                assert file.read_bytes() == content
            else:
                desk.undo(name)
                assert file.read_bytes() == content


# ---- addresses


def test_an_edges_address_becomes_an_index_url() -> None:
    pip = CLIENTS["pip"]
    assert index_url(pip, "http://a.test:1", PYPI) == "http://a.test:1/pypi/simple/"
    assert index_url(pip, "http://a.test:1/", PYPI) == "http://a.test:1/pypi/simple/"
    assert index_url(pip, "http://a.test:1/pypi/", PYPI) == "http://a.test:1/pypi/simple/"
    assert index_url(pip, "http://a.test:1/else/simple", {}) == "http://a.test:1/else/simple/"
    with pytest.raises(ClientError, match="not an http or https URL"):
        index_url(pip, "a.test", PYPI)
    with pytest.raises(ClientError, match="no pypi registry"):
        index_url(pip, "http://a.test", {})


def test_how_to_names_every_client_and_warns() -> None:
    told = how_to("http://127.0.0.1:8080", PYPI)
    assert "edge use pip (or uv, poetry, pdm), or once: pip install" in told
    assert URL in told
    assert "--extra-index-url" in told
    assert "--url" not in told.replace("--index-url", "").replace("--extra-index-url", "")


def test_how_to_spells_an_address_that_the_settings_may_not_know() -> None:
    assert f"edge use pip --url {OTHER} " in how_to("http://127.0.0.1:9999", PYPI)


# ---- the real clients


def ask(desk: Desk, *command: str) -> str:
    """What a real client prints, at this desk and with no configuration of the machine's own."""
    program = TOOLS / command[0]
    assert program.exists(), f"{program} is missing: `make test` installs the real clients"
    environ = {"HOME": str(desk.directory), "PATH": os.environ["PATH"], "PDM_CHECK_UPDATE": "false", "PDM_NO_SELF": "1"}
    done = subprocess.run([program, *command[1:]], cwd=desk.directory, env=environ, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_real_pip_reads_what_was_written(desk: Desk) -> None:
    desk.write("pip", "[global]\ntimeout = 9\n[install]\nindex-url = http://old.test/simple\n")
    desk.use("pip", "http://mirror.test:8080/pypi/simple/")
    told = ask(desk, "pip", "config", "list")
    assert "global.index-url='http://mirror.test:8080/pypi/simple/'" in told
    assert "install.index-url='http://mirror.test:8080/pypi/simple/'" in told
    assert "global.trusted-host='mirror.test:8080'" in told
    assert "global.timeout='9'" in told


def test_the_real_uv_asks_here(desk: Desk) -> None:
    # Nothing listens on port 1: the address uv complains about is the one it asked.
    desk.write("uv", 'index-url = "http://127.0.0.1:2/simple/"\n[pip]\nindex-url = "http://127.0.0.1:3/simple/"\n')
    desk.use("uv", "http://127.0.0.1:1/pypi/simple/")
    (desk.directory / "in.txt").write_text("six\n")
    told = ask(desk, "uv", "pip", "compile", "--no-cache", "in.txt")
    assert "http://127.0.0.1:1/pypi/simple/six/" in told


def test_the_real_poetry_reads_what_was_written(desk: Desk) -> None:
    prepared(desk, "poetry")
    desk.use("poetry")
    told = ask(desk, "poetry", "source", "show").split()
    assert told[told.index("url") + 2] == URL
    assert told[told.index("priority") + 2] == "primary"


def test_the_real_pdm_reads_what_was_written(desk: Desk) -> None:
    desk.write("pdm", "# mine\n[pypi]\nverify_ssl = true\n")
    desk.use("pdm")
    assert URL in ask(desk, "pdm", "config", "pypi.url").split()


def test_both_formats_are_told_apart_by_their_rows() -> None:
    assert {name for name, client in CLIENTS.items() if isinstance(client.files[0].format, TOML)} == {
        "uv",
        "poetry",
        "pdm",
        "bun",
    }
