"""An unchanged model passes all checks; any change to a file is detected, and the file is named."""

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
    "pre/postprocessing",
    "self-consistency",
]
FILES = sorted(str(path.relative_to(SCHEMA_1)) for path in SCHEMA_1.rglob("*") if path.is_file())


def failures(reports: list[VersionReport]) -> list[str]:
    return [f"{failure.file}: {failure.message}" for report in reports for failure in report.failures]


def statuses(report: VersionReport) -> dict[str, str]:
    return {result.check: result.status for result in report.results}


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def exit_status(path: Path) -> int:
    """Run `zoonnx check PATH` and return its exit status."""
    try:
        dispatcher.main(["check", str(path)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_older_schema_holds() -> None:
    """A model of schema version 1 passes all current checks."""
    (report,) = check_model(SCHEMA_1)
    assert statuses(report) == dict.fromkeys(CHECKS, "verified")
    assert (report.has_manifest, report.version) == (True, 1)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_bit(data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit anywhere in any file is detected: exit status 1, and the error names the file."""
    model = tmp_path / "bottleneck4"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(SCHEMA_1, model)
    file = data.draw(st.sampled_from(FILES))
    flip_bit(model / file, data.draw(st.integers(0, (model / file).stat().st_size * 8 - 1)))
    assert exit_status(model) == 1
    assert capsys.readouterr().err.startswith(f"zoonnx check: {model / file}: ")


def test_other_spelling_of_a_number_in_the_manifest(model: Path) -> None:
    """8e-08 and 8E-08 are the same number in other bytes: the manifest's JSON layout is checked beside its hash."""
    path = model / "1" / "manifest.json"
    content = path.read_bytes()
    assert b"e-08" in content
    path.write_bytes(content.replace(b"e-08", b"E-08", 1))
    assert failures(check_model(model)) == [
        f"{path}: not in the JSON layout that zoonnx writes: changed after the export"
    ]


@pytest.mark.parametrize("file", FILES)
def test_missing_file(model: Path, file: str) -> None:
    """A missing file is detected, and so is a missing manifest."""
    (model / file).unlink()
    assert [line for line in failures(check_model(model)) if f"{model / file}: " in line and "missing" in line]


@pytest.mark.parametrize("file", ["notes.txt", "1/more.bin", "1/test_data_set_0/input_1.pb", "old/1.txt"])
def test_unlisted_file(model: Path, file: str) -> None:
    """A file that the manifest does not list is detected."""
    (model / file).parent.mkdir(exist_ok=True)
    (model / file).write_bytes(b"more")
    reported = model / "old" if file.startswith("old/") else model / file
    assert failures(check_model(model)) == [f"{reported}: not listed in manifest.json: move it away"]


def test_damaged_bytes(model: Path) -> None:
    """If a file is damaged, the contents are not checked."""
    flip_bit(model / "1" / "model.onnx", 999)
    (report,) = check_model(model)
    assert statuses(report) == {"manifest": "verified", "files": "failed"} | dict.fromkeys(CHECKS[2:], "not run")


def test_every_version_or_one(model: Path) -> None:
    """All versions of a model are checked, oldest first, or only the version in the path."""
    for version in ("10", "2"):
        shutil.copytree(model / "1", model / version)
    flip_bit(model / "2" / "model.onnx", 0)
    assert [report.version for report in check_model(model)] == [1, 2, 10]
    assert [report.version for report in check_model(model / "10")] == [10]
    assert [line.partition(": ")[0] for line in failures(check_model(model))] == [str(model / "2" / "model.onnx")]
    assert exit_status(model / "1") == 0


def test_repository(model: Path) -> None:
    """Every version of every model is checked, in the order of the models' names; hidden folders are skipped."""
    shutil.copytree(model, model.parent / ".staging-x" / "model")
    shutil.copytree(model, model.parent / "another")
    flip_bit(model.parent / "another" / "1" / "model.onnx", 0)
    reports = check_model(model.parent)
    assert [Path(report.folder) for report in reports] == [model.parent / "another" / "1", model / "1"]
    assert [any(True for _ in report.failures) for report in reports] == [True, False]


@pytest.mark.parametrize("number", [99, "99"])
def test_newer_schema(model: Path, number: int | str) -> None:
    """A newer schema version is rejected, also if it is a string in the JSON."""
    reseal(model / "1", lambda fields: fields.update(schema_version=number))
    with pytest.raises(
        NewerSchemaError, match=r"schema_version 99, but this zoonnx supports versions up to \d+: install a newer"
    ):
        check_model(model)
    assert exit_status(model) == 2


def test_unknown_fields_are_hashed(model: Path) -> None:
    """Unknown fields of a manifest are ignored, but a change to them is detected."""
    reseal(model / "1", lambda fields: fields.update(colour="green"))
    assert failures(check_model(model)) == []
    path = model / "1" / "manifest.json"
    path.write_text(path.read_text("utf-8").replace("green", "greed"), "utf-8")
    assert len(failures(check_model(model))) == 1


def test_path_outside_the_model(model: Path) -> None:
    """The check reads no files outside the model's folder, even if a manifest lists them."""
    reseal(model / "1", lambda fields: fields["files"][2].update(path="../../secret"))
    assert "outside the model's folder" in failures(check_model(model))[0]


class TestForeignModels:
    """A model without a manifest is checked as far as possible."""

    @pytest.fixture
    def foreign(self, model: Path) -> Path:
        """The model without manifest and metadata, as other software might write it."""
        import onnx

        (model / "1" / "manifest.json").unlink()
        path = model / "1" / "model.onnx"
        proto = onnx.load(path)
        del proto.metadata_props[:]
        onnx.save(proto, path)
        return model

    def test_checks_without_a_manifest(self, foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Checks that need no manifest run, and the output states that changed bits cannot be detected."""
        (report,) = check_model(foreign)
        by_check = statuses(report)
        not_run = ["manifest", "paths", "layers", "pre/postprocessing", "self-consistency"]
        assert [name for name, status in by_check.items() if status == "not run"] == not_run
        verified = ("origin", "format", "interface", "shapes", "test data")
        assert [by_check[name] for name in verified] == ["verified"] * 5
        assert exit_status(foreign) == 0
        message = "There is no manifest.json: a changed bit in the files cannot be detected."
        assert message in capsys.readouterr().out

    def test_config_of_another_model(self, foreign: Path) -> None:
        """A config.pbtxt with other tensors than the ONNX file is a failure."""
        path = foreign / "config.pbtxt"
        path.write_text(path.read_text("utf-8").replace('name: "image"', 'name: "picture"'), "utf-8")
        message = "config.pbtxt: input 'picture': expected no such tensor (model.onnx), got UINT8 [-1, 8, 8, 1]"
        assert any(message in line for line in failures(check_model(foreign)))

    def test_wrong_test_data(self, foreign: Path) -> None:
        """Test data that the model does not reproduce is a failure."""
        folder = foreign / "1" / "test_data_set_0"
        shutil.copy(folder / "output_1.pb", folder / "output_0.pb")
        import onnx

        tensor = onnx.load_tensor(folder / "output_0.pb")
        tensor.name = "logits"
        onnx.save_tensor(tensor, folder / "output_0.pb")
        message = "output_0.pb: output 'logits' of the model differs from this file by"
        assert any(message in line for line in failures(check_model(foreign)))

    def test_not_a_model(self, foreign: Path) -> None:
        """A file that is not an ONNX model is a failure of that file, not a traceback."""
        (foreign / "1" / "model.onnx").write_bytes(b"not a model")
        assert "model.onnx: cannot be read as an ONNX model" in failures(check_model(foreign))[0]


class TestPath:
    """The path on the command line."""

    @pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
    def test_no_model(self, tmp_path: Path, name: str) -> None:
        """A missing path, a file and a folder without versions are user errors."""
        (tmp_path / "file").touch()
        (tmp_path / "empty").mkdir()
        with pytest.raises(NoModelError, match=name):
            check_model(tmp_path / name)
        assert exit_status(tmp_path / name) == 2

    def test_current_folder(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model or a version can be the current folder."""
        for folder in (model, model / "1"):
            monkeypatch.chdir(folder)
            assert failures(check_model(Path())) == []
        monkeypatch.chdir(model)
        assert failures(check_model(Path("1"))) == []


def test_json(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints the result of every check with its failures, and nothing else on stdout."""
    flip_bit(model / "labels.txt", 3)
    with pytest.raises(SystemExit) as end:
        dispatcher.main(["check", str(model), "--json"])
    output = json.loads(capsys.readouterr().out)
    assert (end.value.code, output["verified"]) == (1, False)
    (version,) = output["versions"]
    assert [result["check"] for result in version["results"]] == CHECKS
    assert version["results"][1]["failures"][0]["file"] == str(model / "labels.txt")


class TestSpecialFiles:
    """A link loop, folder or pipe instead of a file gives one error and exit status 1, never a traceback."""

    @pytest.mark.parametrize("name", ["1/manifest.json", "config.pbtxt", "labels.txt", "1/model.onnx"])
    @pytest.mark.parametrize("kind", ["loop", "folder", "pipe"])
    def test_no_regular_file(self, model: Path, name: str, kind: str) -> None:
        """The error names the link loop, the folder or the pipe."""
        (model / name).unlink()
        if kind == "loop":
            (model / name).symlink_to(model / name)
        elif kind == "pipe":
            os.mkfifo(model / name)
        else:
            (model / name).mkdir()
        (report,) = check_model(model)
        assert any(Path(name).name in failure.file for failure in report.failures)
        assert exit_status(model) == 1

    def test_deep_manifest(self, model: Path) -> None:
        """JSON that is nested too deeply is rejected."""
        (model / "1" / "manifest.json").write_text("[" * 200_000 + "]" * 200_000, "utf-8")
        assert "cannot be read as JSON" in "".join(failures(check_model(model)))
        assert exit_status(model) == 1


class TestUntrustedFileNames:
    """File names may contain anything."""

    def test_control_characters(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Control characters in a file name are printed as escapes, and at most 50 failures are printed."""
        for index in range(60):
            (model / "1" / f"a\x1b[31m\n{index:02}").touch()
        with pytest.raises(SystemExit):
            dispatcher.main(["check", str(model)])
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        assert captured.err.count("\n") == 1
        assert r"a\x1b[31m\n00: not listed in manifest.json" in captured.out
        assert captured.out.count("not listed in manifest.json") == 50
        assert "and 10 more: --json prints them all" in captured.out

    def test_json_is_ascii(self, model: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        """The JSON output also holds file names that are not UTF-8."""
        (model / "1" / os.fsdecode(b"\xff\n")).touch()
        with pytest.raises(SystemExit):
            dispatcher.main(["check", str(model), "--json"])
        output = json.loads(capfdbinary.readouterr().out.decode("ascii"))
        files = [
            failure["file"]
            for version in output["versions"]
            for result in version["results"]
            for failure in result["failures"]
        ]
        assert [os.fsencode(Path(file).name) for file in files] == [b"\xff\n"]

    def test_path_that_is_not_utf8(self, model: Path) -> None:
        """A path that the ONNX checker cannot open is a user error."""
        path = model.rename(model.with_name(os.fsdecode(b"m\xff")))
        with pytest.raises(NoModelError, match="the path is not UTF-8"):
            check_model(path)
