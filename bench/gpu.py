"""What a machine with CUDA must show: the gpu-marked tests pass, and what serving costs beside onnxruntime alone.

    python -m bench.gpu                  all of it; writes bench/results/gpu-DATE.json and .md
    python -m bench.gpu --check          only say what is missing for it
    python -m bench.gpu --dry-run        the same steps on the CPU with a tiny network, briefly

Each network is exported, and once more converted to fp16; one server runs all of them. onnxruntime alone runs in this
process, from numpy to numpy, in batches of 1 and of the largest size. The server is asked by a client process: for
single images, many at a time, which it puts together by itself, and for whole batches. Rounds alternate.
"""

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from bench.common import RESULTS, ROOT, machine_line, ratios, shown, summary, table, write, zoonnx

NETS = {"resnet50": "resnet50", "mobilenetv3_small": "mobilenetv3_small_100"}
TINY = {"tiny": "test_resnet"}
NEEDED = {  # what is imported, and the package that brings it
    "accelerate": "accelerate",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime-gpu",
    "onnxscript": "onnxscript",
    "PIL": "pillow",
    "prometheus_client": "prometheus-client",
    "pytest": "pytest",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "starlette": "starlette",
    "timm": "timm",
    "torch": "torch",
    "torchmetrics": "torchmetrics",
    "torchvision": "torchvision",
    "typer": "typer",
    "uvicorn": "uvicorn",
}
Provider = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Plan:
    """How long and on what is measured. `singles` single images, or `wholes` batches of `largest`, are under way."""

    provider: Provider
    networks: dict[str, str]
    seconds: float
    rounds: int
    largest: int = 32
    singles: int = 64
    wholes: int = 4
    tests_limit_s: float = 240.0


FULL = Plan("cuda", NETS, seconds=2.0, rounds=3)
DRY = Plan("cpu", TINY, seconds=0.3, rounds=1, largest=4, singles=4, wholes=2, tests_limit_s=400.0)


def main() -> None:
    """Test, measure, write. Exit status: 0 done, 1 a test failed, 2 this machine lacks something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    plan = DRY if options.dry_run else FULL
    lacking = missing(plan.provider)
    if lacking:
        print(f"bench.gpu: {lacking}", file=sys.stderr)
        raise SystemExit(2)
    if not options.check:
        raise SystemExit(carry_out(plan, options.out, with_tests=not options.no_tests))


def missing(provider: Provider) -> str:
    """What this interpreter or machine lacks, as a sentence; empty if nothing."""
    absent = [package for module, package in NEEDED.items() if not _there(module)]
    if absent:
        return f"{sys.executable} lacks {', '.join(absent)}: run 'make gpu', or pip install 'zoonnx[all,cuda]' pytest."
    if provider == "cpu":
        return ""
    from serve.engine import session

    words = session._missing_for_cuda()
    return f"CUDA cannot be used: {words}" if words else ""


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def carry_out(plan: Plan, out: Path, *, with_tests: bool) -> int:
    """Run the tests, then measure; returns the exit status. What failed is written as well."""
    start_s = time.perf_counter()
    tests = run_tests(plan) if with_tests else {}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        names = [name for label, network in plan.networks.items() for name in make_models(models, label, network, plan)]
        results = measure(models, names, plan)
    found = {"device": device(plan), "software": software(), "provider": plan.provider, "tests": tests}
    found |= {"seconds": time.perf_counter() - start_s, "models": results}
    write(f"gpu-{date.today()}", found, page(found, plan), out)
    return 0 if all(test["outcome"] == "passed" for test in tests.values()) else 1


def run_tests(plan: Plan) -> dict[str, dict[str, Any]]:
    """Run the gpu-marked tests on the plan's provider; returns each one's outcome and seconds.

    They have a pytest configuration of their own, so that no plugin is needed.
    """
    folder = ROOT / "tests" / "gpu"
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-c", folder / "pytest.ini", "--rootdir", ROOT, "-q", folder]
        command += ["--confcutdir", folder, "-m", "gpu", f"--junitxml={report}", "-p", "no:cacheprovider", "--tb=short"]
        environment = {**os.environ, "ZOONNX_GPU_TESTS_ON": plan.provider, "PYTHONPATH": _python_path()}
        try:
            subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=plan.tests_limit_s, stdout=2)
        except subprocess.TimeoutExpired:
            return {"all": {"outcome": f"not done within {plan.tests_limit_s:g} s", "seconds": plan.tests_limit_s}}
        if not report.exists():
            return {"all": {"outcome": "pytest did not run", "seconds": 0.0}}
        cases = list(ET.parse(report).getroot().iter("testcase"))
    return {f"{each.get('classname')}::{each.get('name')}": _outcome(each) for each in cases} or {
        "all": {"outcome": "there were none", "seconds": 0.0}
    }


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _outcome(case: ET.Element) -> dict[str, Any]:
    bad = [each.tag for each in case if each.tag in ("failure", "error", "skipped")]
    return {"outcome": bad[0] if bad else "passed", "seconds": float(case.get("time", 0))}


def make_models(models: Path, label: str, network: str, plan: Plan) -> list[str]:
    """Export a network, and write it once more in fp16; returns the names of both models."""
    zoonnx("export", network, "--to", models, "--name", f"{label}-fp32", "--max-batch-size", plan.largest)
    half_precision(models / f"{label}-fp32", models / f"{label}-fp16")
    return [f"{label}-fp32", f"{label}-fp16"]


def half_precision(single: Path, half: Path) -> None:
    """Write a model in fp16 beside one in fp32: the same inputs and outputs, half the weights."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(onnx.load(single / "1" / "model.onnx"), keep_io_types=True)
    (half / "1").mkdir(parents=True)
    onnx.save(converted, half / "1" / "model.onnx")
    text = (single / "config.pbtxt").read_text("utf-8").replace(f'name: "{single.name}"', f'name: "{half.name}"', 1)
    (half / "config.pbtxt").write_text(text, "utf-8")
    for labels in single.glob("labels.txt"):
        (half / labels.name).write_bytes(labels.read_bytes())


def measure(models: Path, names: Sequence[str], plan: Plan) -> list[dict[str, Any]]:
    """Measure each model served and by itself, turn by turn."""
    from bench.load_client import asking
    from bench.serving import serving

    with serving(models, "--provider", plan.provider, log=None) as server, asking() as asker:
        return [compare(models, name, server, asker, plan) for name in names]


def compare(models: Path, name: str, server: Any, asker: Any, plan: Plan) -> dict[str, Any]:
    """One model's images a second, in each way."""
    from bench.serving import by_itself, executions
    from serve.client.load_test import LoadSettings
    from serve.engine.session import Session

    session = Session.open(models / name / "1" / "model.onnx", plan.provider)
    loads = {
        "singles": LoadSettings(name, plan.singles, 1, plan.seconds),
        "wholes": LoadSettings(name, plan.wholes, plan.largest, plan.seconds),
    }
    rates: dict[str, list[float]] = {"alone_1": [], "alone_largest": [], "singles": [], "wholes": []}
    before = executions(server.url, name)
    for _ in range(plan.rounds):
        rates["alone_1"].append(by_itself(session, [1], plan.seconds)[0])
        rates["alone_largest"].append(by_itself(session, [plan.largest], plan.seconds)[0])
        for kind, load in loads.items():
            rates[kind].append(asker.ask(server.url, load)["rows_per_s"])
    ratio = ratios(rates["wholes"], rates["alone_largest"])
    batches = executions(server.url, name) - before
    found = {kind: summary(values) for kind, values in rates.items()}
    return {"model": name, "device": session.device, **found, "ratio": ratio, "batches": dict(sorted(batches.items()))}


def device(plan: Plan) -> str:
    """The GPU's name, or the CPU's kind."""
    import torch

    return str(torch.cuda.get_device_name(0)) if plan.provider == "cuda" else platform.machine()


def software() -> dict[str, str]:
    """The versions that matter for the figures."""
    import onnxruntime
    import torch

    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    return {**versions, "cuda": str(torch.version.cuda), "cudnn": str(cudnn)}


def page(found: dict[str, Any], plan: Plan) -> str:
    """The report for people."""
    passed = sum(test["outcome"] == "passed" for test in found["tests"].values())
    versions = ", ".join(f"{name} {version}" for name, version in found["software"].items())
    text = f"{found['device']}, provider {found['provider']}; {versions}; {found['seconds']:.0f} s in all.\n\n"
    text += f"Tests: {passed} of {len(found['tests'])} passed.\n"
    bad = {name: each["outcome"] for name, each in found["tests"].items() if each["outcome"] != "passed"}
    text += "".join(f"- {name}: {outcome}\n" for name, outcome in bad.items())
    head = ["model", "onnxruntime alone, batch 1", f"batch {plan.largest}", f"served, {plan.singles} x 1"]
    head += [f"served, {plan.wholes} x {plan.largest}", f"ratio at {plan.largest}", "batches"]
    rows = []
    for each in found["models"]:
        row = [each["model"], *(shown(each[kind], 0) for kind in ("alone_1", "alone_largest", "singles", "wholes"))]
        row += [shown(each["ratio"], 2), ", ".join(f"{count} of {size}" for size, count in each["batches"].items())]
        rows.append(row)
    return machine_line() + text + "\nImages a second:\n\n" + table(head, rows)


if __name__ == "__main__":
    main()
