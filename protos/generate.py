"""Rebuild the files generated from the .proto files: `python -m protos.generate [--check]`.

Each `X.proto` has `X.py` with the message classes and `X.pyi` with their types; all share `descriptors.binpb`. The same
sources produce the same bytes. `--check` writes nothing, and exits with status 1 if a file is stale.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

HERE = Path(__file__).parent
NOTICE = "Generated from {source} by `python -m protos.generate`."
STUB_IS_NOT_LINTED = "# ruff: noqa: E501, I001, RUF023, UP007, UP045\n# fmt: off"


def main() -> None:
    """Write the stale files, or with `--check` report them."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if a file is stale")
    parser.add_argument("--folder", type=Path, default=HERE, help="folder of the .proto files (default: protos/)")
    arguments = parser.parse_args()
    contents = generate(arguments.folder)
    stale = sorted(name for name, content in contents.items() if _differs(arguments.folder / name, content))
    if arguments.check and stale:
        sys.exit(f"protos: not current with the .proto files: {', '.join(stale)}; run: python -m protos.generate")
    for name in stale:
        (arguments.folder / name).write_bytes(contents[name])


def generate(folder: Path) -> Mapping[str, bytes]:
    """Return the content of each generated file for the .proto files in `folder`, by file name."""
    sources = sorted(path.name for path in folder.glob("*.proto"))
    with TemporaryDirectory() as scratch:
        _protoc(folder, Path(scratch), sources)
        descriptors = FileDescriptorSet.FromString((Path(scratch) / "set").read_bytes())
        contents = {"descriptors.binpb": descriptors.SerializeToString(deterministic=True)}
        for file in descriptors.file:
            stem = Path(file.name).stem
            contents[f"{stem}.py"] = _module(file).encode()
            contents[f"{stem}.pyi"] = _stub(file, (Path(scratch) / f"{stem}_pb2.pyi").read_text()).encode()
    return contents


def _protoc(folder: Path, scratch: Path, sources: list[str]) -> None:
    from grpc_tools import protoc

    well_known = files("grpc_tools") / "_proto"
    options = [f"-I{folder}", f"-I{well_known}", f"--descriptor_set_out={scratch / 'set'}", f"--pyi_out={scratch}"]
    if protoc.main(["protoc", *options, *sources]) != 0:
        sys.exit("protos: protoc rejected a .proto file; see its message above.")


def _module(file: FileDescriptorProto) -> str:
    head = f'"""Message classes. {NOTICE.format(source=file.name)}"""\n\nfrom protos import loader\n\n'
    return head + "".join(f"{line}\n" for line in _assignments(file))


def _assignments(file: FileDescriptorProto) -> Iterator[str]:
    yield f'DESCRIPTOR = loader.file("{file.name}")'
    for enum in sorted(file.enum_type, key=lambda enum: enum.name):
        yield f'{enum.name} = loader.enum("{file.package}.{enum.name}")'
        yield from (f"{value.name} = {value.number}" for value in enum.value)
    for message in sorted(file.message_type, key=lambda message: message.name):
        yield f'{message.name} = loader.message("{file.package}.{message.name}")'


def _stub(file: FileDescriptorProto, generated: str) -> str:
    """Return protoc's stub, changed to import our modules and to pass `mypy --strict`."""
    generated = re.sub(r"\b_Mapping\b(?=[\],])", "_Mapping[str, _Any]", generated)
    generated = generated.replace("**kwargs)", "**kwargs: _Any)")
    generated = re.sub(r"^import (\w+)_pb2 as", r"from protos import \1 as", generated, flags=re.MULTILINE)
    head = [f"# {NOTICE.format(source=file.name)}", STUB_IS_NOT_LINTED, "from typing import Any as _Any"]
    return "\n".join([*head, generated])


def _differs(path: Path, content: bytes) -> bool:
    return not path.exists() or path.read_bytes() != content


if __name__ == "__main__":
    main()
