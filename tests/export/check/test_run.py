"""A whole model holds; whatever is done to a file is found, and the file is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zoonnx as dispatcher
from export.check.results import VersionReport
from export.check.run import check_model
from export.errors import NewerSchemaError, NoModelError
from tests.export.check.conftest import SCHEMA_1, reseal

CHECKS = [
    "manifest",
    "files",
    "paths",
    "format",
    "interface",
    "labels",
    "preprocessing",
    "layers",
    "shapes",
    "test data",
    "frame",
    "record",
]
FILES = sorted(str(path.relative_to(SCHEMA_1)) for path in SCHEMA_1.rglob("*") if path.is_file())


def faults(reports: list[VersionReport]) -> list[str]:
    return [f"{fault.file}: {fault.words}" for report in reports for fault in report.faults]


def results(report: VersionReport) -> dict[str, str]:
    return {finding.check: finding.result for finding in report.findings}


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def command(place: Path) -> int:
    """The exit status of `zoonnx check PLACE`."""
    try:
        dispatcher.main(["check", str(place)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_older_schema_holds() -> None:
    """What an export of schema version 1 wrote passes every check of today."""
    (report,) = check_model(SCHEMA_1)
    assert results(report) == dict.fromkeys(CHECKS, "holds")
    assert (report.sealed, report.version) == (True, 1)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_flipped_bit_in_any_file_is_found(
    data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit, anywhere in any file: exit status 1, and the file is named."""
    model = tmp_path / "bottleneck4"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(SCHEMA_1, model)
    file = data.draw(st.sampled_from(FILES))
    flip(model / file, data.draw(st.integers(0, (model / file).stat().st_size * 8 - 1)))
    status = command(model)
    assert status == 1
    assert capsys.readouterr().err.startswith(f"zoonnx check: {model / file}: ")


def test_every_bit_of_a_number_in_the_manifest(model: Path) -> None:
    """8e-08 and 8E-08 are one number, but not one file: the manifest's form is checked beside its hash."""
    path = model / "1" / "manifest.json"
    whole = path.read_bytes()
    assert b"e-08" in whole
    path.write_bytes(whole.replace(b"e-08", b"E-08", 1))
    assert faults(check_model(model)) == [
        f"{path}: it does not stand in the form in which zoonnx writes it: it was changed after the export"
    ]


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file(model: Path, file: str) -> None:
    """What the manifest names must be there, and so must the manifest."""
    (model / file).unlink()
    assert [line for line in faults(check_model(model)) if f"{model / file}: " in line and "missing" in line]


@pytest.mark.parametrize("file", ["notes.txt", "1/more.bin", "1/test_data_set_0/input_1.pb", "old/1.txt"])
def test_a_file_too_many(model: Path, file: str) -> None:
    """What the manifest does not name must not be there."""
    (model / file).parent.mkdir(exist_ok=True)
    (model / file).write_bytes(b"more")
    place = model / "old" if file.startswith("old/") else model / file
    assert faults(check_model(model)) == [f"{place}: manifest.json does not name it: move it away"]


def test_damage_comes_first(model: Path) -> None:
    """What stands in a damaged file is not believed: the checks of contents are not done."""
    flip(model / "1" / "model.onnx", 999)
    (report,) = check_model(model)
    assert results(report) == {"manifest": "holds", "files": "fails"} | dict.fromkeys(CHECKS[2:], "not done")


def test_every_version_or_one(model: Path) -> None:
    """All versions of a model are checked, oldest first, or the one that is named."""
    for version in ("10", "2"):
        shutil.copytree(model / "1", model / version)
    flip(model / "2" / "model.onnx", 0)
    assert [report.version for report in check_model(model)] == [1, 2, 10]
    assert [report.version for report in check_model(model / "10")] == [10]
    assert [line.partition(": ")[0] for line in faults(check_model(model))] == [str(model / "2" / "model.onnx")]
    assert command(model / "1") == 0


def test_a_whole_repository(model: Path) -> None:
    """Every version of every model is checked, by the models' names; hidden folders are none."""
    shutil.copytree(model, model.parent / ".staging-x" / "model")
    shutil.copytree(model, model.parent / "another")
    flip(model.parent / "another" / "1" / "model.onnx", 0)
    reports = check_model(model.parent)
    assert [Path(report.folder) for report in reports] == [model.parent / "another" / "1", model / "1"]
    assert [any(True for _ in report.faults) for report in reports] == [True, False]


@pytest.mark.parametrize("number", [99, "99"])
def test_newer_schema(model: Path, number: int | str) -> None:
    """A schema version that only a later zoonnx knows is refused, not misread, also where JSON quotes it."""
    reseal(model / "1", lambda fields: fields.update(schema_version=number))
    with pytest.raises(NewerSchemaError, match=r"schema_version 99; this zoonnx knows up to \d+: install a newer"):
        check_model(model)
    assert command(model) == 2


def test_later_fields_are_hashed(model: Path) -> None:
    """Fields that this zoonnx does not know are read past, but a change in them is found."""
    reseal(model / "1", lambda fields: fields.update(colour="green"))
    assert faults(check_model(model)) == []
    path = model / "1" / "manifest.json"
    path.write_text(path.read_text("utf-8").replace("green", "greed"), "utf-8")
    assert len(faults(check_model(model))) == 1


def test_a_name_that_leads_outside(model: Path) -> None:
    """A manifest cannot make check read files of others."""
    reseal(model / "1", lambda fields: fields["files"][2].update(path="../../secret"))
    assert "names a file outside the model's folder" in faults(check_model(model))[0]


class TestModelsOfOthers:
    """What has no manifest is checked as far as that goes."""

    @pytest.fixture
    def foreign(self, model: Path) -> Path:
        """The model as somebody else might have made it: no manifest, no metadata."""
        import onnx

        (model / "1" / "manifest.json").unlink()
        path = model / "1" / "model.onnx"
        proto = onnx.load(path)
        del proto.metadata_props[:]
        onnx.save(proto, path)
        return model

    def test_what_is_possible(self, foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A clear sentence says what cannot be found; the checks that need no manifest are done."""
        (report,) = check_model(foreign)
        done = results(report)
        undone = ["manifest", "paths", "layers", "frame", "record"]
        assert [name for name, result in done.items() if result == "not done"] == undone
        assert [done[name] for name in ("origin", "format", "interface", "shapes", "test data")] == ["holds"] * 5
        assert command(foreign) == 0
        assert "There is no manifest.json: a changed bit in its files cannot be found." in capsys.readouterr().out

    def test_config_of_another_model(self, foreign: Path) -> None:
        """config.pbtxt that names other tensors than the file is a fault."""
        path = foreign / "config.pbtxt"
        path.write_text(path.read_text("utf-8").replace('name: "image"', 'name: "picture"'), "utf-8")
        assert any(
            "config.pbtxt: input 'picture' is UINT8 of [-1, 8, 8, 1]" in line for line in faults(check_model(foreign))
        )

    def test_wrong_test_data(self, foreign: Path) -> None:
        """Test data that the model does not reproduce is a fault."""
        folder = foreign / "1" / "test_data_set_0"
        shutil.copy(folder / "output_1.pb", folder / "output_0.pb")
        import onnx

        tensor = onnx.load_tensor(folder / "output_0.pb")
        tensor.name = "logits"
        onnx.save_tensor(tensor, folder / "output_0.pb")
        assert any(
            "output_0.pb: the model's 'logits' departs from it by" in line for line in faults(check_model(foreign))
        )

    def test_not_a_model(self, foreign: Path) -> None:
        """A file that is no ONNX model is one fault of that file, not a traceback."""
        (foreign / "1" / "model.onnx").write_bytes(b"not a model")
        assert "model.onnx: it cannot be read as an ONNX model" in faults(check_model(foreign))[0]


class TestPlaces:
    """What is named must be a model."""

    @pytest.mark.parametrize("place", ["nowhere", "file", "empty"])
    def test_no_model(self, tmp_path: Path, place: str) -> None:
        """A missing place, a file and a folder without versions are the user's mistake."""
        (tmp_path / "file").touch()
        (tmp_path / "empty").mkdir()
        with pytest.raises(NoModelError, match=place):
            check_model(tmp_path / place)
        assert command(tmp_path / place) == 2

    def test_from_inside(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model and a version can be named by '.', too."""
        for folder in (model, model / "1"):
            monkeypatch.chdir(folder)
            assert faults(check_model(Path())) == []
        monkeypatch.chdir(model)
        assert faults(check_model(Path("1"))) == []


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints every finding with its faults, and nothing else on stdout."""
    flip(model / "labels.txt", 3)
    with pytest.raises(SystemExit) as end:
        dispatcher.main(["check", str(model), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (end.value.code, found["holds"]) == (1, False)
    (version,) = found["versions"]
    assert [each["check"] for each in version["findings"]] == CHECKS
    assert version["findings"][1]["faults"][0]["file"] == str(model / "labels.txt")


class TestStrangeFiles:
    """What stands in a file's place and is none: a sentence and exit status 1, never a traceback."""

    @pytest.mark.parametrize("name", ["1/manifest.json", "config.pbtxt", "labels.txt", "1/model.onnx"])
    @pytest.mark.parametrize("kind", ["loop", "folder", "pipe"])
    def test_no_file(self, model: Path, name: str, kind: str) -> None:
        """A loop of links, a folder, or a pipe that never ends, is named."""
        (model / name).unlink()
        if kind == "loop":
            (model / name).symlink_to(model / name)
        elif kind == "pipe":
            os.mkfifo(model / name)
        else:
            (model / name).mkdir()
        (report,) = check_model(model)
        assert any(Path(name).name in fault.file for fault in report.faults)
        assert command(model) == 1

    def test_deep_manifest(self, model: Path) -> None:
        """JSON that is nested too deeply is no manifest."""
        (model / "1" / "manifest.json").write_text("[" * 200_000 + "]" * 200_000, "utf-8")
        assert "cannot be read as JSON" in "".join(faults(check_model(model)))
        assert command(model) == 1


class TestNamesFromOutside:
    """What files are called is nobody's to choose."""

    def test_nothing_steers_the_terminal(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Escape codes and line breaks in a file's name are written as such; no more faults than can be read."""
        for index in range(60):
            (model / "1" / f"a\x1b[31m\n{index:02}").touch()
        with pytest.raises(SystemExit):
            dispatcher.main(["check", str(model)])
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
        assert said.err.count("\n") == 1
        assert r"a\x1b[31m\n00: manifest.json does not name it" in said.out
        assert said.out.count("does not name it") == 50
        assert "and 10 more: --json has them all" in said.out

    def test_json_is_ascii(self, model: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        """Names that are no UTF-8 stand in it, too."""
        (model / "1" / os.fsdecode(b"\xff\n")).touch()
        with pytest.raises(SystemExit):
            dispatcher.main(["check", str(model), "--json"])
        found = json.loads(capfdbinary.readouterr().out.decode("ascii"))
        files = [
            fault["file"] for version in found["versions"] for each in version["findings"] for fault in each["faults"]
        ]
        assert [os.fsencode(Path(file).name) for file in files] == [b"\xff\n"]

    def test_a_path_that_is_no_utf8(self, model: Path) -> None:
        """ONNX's own checker cannot open it: one sentence."""
        place = model.rename(model.with_name(os.fsdecode(b"m\xff")))
        with pytest.raises(NoModelError, match="its path is not UTF-8"):
            check_model(place)
