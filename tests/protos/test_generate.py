"""Tests of the generated files: current, reproducible, and independent of the compiler."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import protos
from protos import generate, inference, loader, manifest

FOLDER = Path(protos.__file__).parent


def _generate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "protos.generate", "--folder", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package's files to modify."""
    return Path(shutil.copytree(FOLDER, tmp_path / "protos", ignore=shutil.ignore_patterns("__pycache__")))


def test_committed_files_are_current() -> None:
    """The committed files are those that the .proto files generate."""
    stale = [name for name, content in generate.generate(FOLDER).items() if (FOLDER / name).read_bytes() != content]
    assert stale == []


@pytest.mark.parametrize("name", ["inference.py", "manifest.pyi", "descriptors.binpb"])
def test_check_names_a_stale_file(copy: Path, name: str) -> None:
    """`--check` exits with status 1, names the stale file in one sentence, and does not change it."""
    (copy / name).write_bytes(b"# old\n")
    run = _generate(copy, "--check")
    assert run.returncode == 1
    assert run.stderr == f"protos: not current with the .proto files: {name}; run: python -m protos.generate\n"
    assert (copy / name).read_bytes() == b"# old\n"


def test_generates_missing_files(copy: Path) -> None:
    """Without `--check`, a changed schema rewrites its own files and no others."""
    schema = copy / "manifest.proto"
    schema.write_text(schema.read_text() + "message Extra { int32 size = 1; }\n")
    before = (copy / "inference.pyi").stat().st_mtime_ns
    assert _generate(copy).returncode == 0
    assert 'Extra = loader.message("zoonnx.v1.Extra")' in (copy / "manifest.py").read_text()
    assert "class Extra(" in (copy / "manifest.pyi").read_text()
    assert (copy / "inference.pyi").stat().st_mtime_ns == before


def test_rejects_a_malformed_schema(copy: Path) -> None:
    """A .proto file that does not parse is an error with protoc's message."""
    (copy / "manifest.proto").write_text("message {")
    run = _generate(copy)
    assert run.returncode == 1
    assert "manifest.proto:1:" in run.stderr


@pytest.mark.parametrize("module", [inference, manifest])
def test_module_has_all_definitions_of_its_file(module: object) -> None:
    """Each message, enum and enum value of the file is an attribute of the module."""
    file = module.DESCRIPTOR  # type: ignore[attr-defined]
    values = {
        value: number.number
        for enum in file.enum_types_by_name.values()
        for value, number in enum.values_by_name.items()
    }
    assert {name: getattr(module, name).DESCRIPTOR for name in file.message_types_by_name} == dict(
        file.message_types_by_name
    )
    assert {name: getattr(module, name) for name in values} == values


def test_enum_wrapper_translates_names() -> None:
    """An enum's wrapper maps names to numbers and back."""
    assert inference.DataType.Value("TYPE_UINT8") == 2
    assert inference.DataType.Name(2) == "TYPE_UINT8"


@pytest.mark.parametrize("lookup", [loader.message, loader.enum, loader.service, loader.file])
def test_unknown_name_raises_key_error(lookup: object) -> None:
    """A name that no file defines is a KeyError for every kind of definition."""
    with pytest.raises(KeyError, match="Nothing"):
        lookup("inference.Nothing")  # type: ignore[operator]


def test_loader_needs_no_compiler() -> None:
    """Importing the messages imports neither grpc nor its tools."""
    program = (
        "import sys; from protos import inference, manifest; sys.exit(bool({'grpc', 'grpc_tools'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
