"""Validation of a machine with CUDA: the gpu-marked tests, and the cost of serving compared with onnxruntime alone.

    python -m bench.gpu                  run everything; write bench/results/gpu-DATE.json and .md
    python -m bench.gpu --check          only report what the machine lacks
    python -m bench.gpu --dry-run        the same steps on the CPU with a tiny network, briefly

Each network is exported, and also converted to fp16; one server serves all models. onnxruntime alone runs in this
process, from numpy to numpy, with batches of 1 and of the largest size. A client process sends the server single
images, many concurrently, which the server batches, and requests that are full batches. Rounds alternate.
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

from bench.common import RESULTS, ROOT, format_summary, machine_line, ratios, summary, table, write, zoonnx

NETWORKS = {"resnet50": "resnet50", "mobilenetv3_small": "mobilenetv3_small_100"}
TINY_NETWORKS = {"tiny": "test_resnet"}
NEEDED = {  # module: the package that provides it
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
    """What is measured, and for how long.

    Attributes:
        provider: The device.
        networks: The networks to export, by the label that their models' names begin with.
        seconds: Duration of each measurement.
        rounds: How often each measurement is repeated.
        max_batch_size: The models' largest batch.
        single_concurrency: Requests of one image in flight.
        batch_concurrency: Requests of `max_batch_size` images in flight.
        test_timeout_s: Time limit for all tests together.
    """

    provider: Provider
    networks: dict[str, str]
    seconds: float
    rounds: int
    max_batch_size: int = 32
    single_concurrency: int = 64
    batch_concurrency: int = 4
    test_timeout_s: float = 240.0


FULL = Plan("cuda", NETWORKS, seconds=2.0, rounds=3)
DRY_RUN = Plan(
    "cpu",
    TINY_NETWORKS,
    seconds=0.3,
    rounds=1,
    max_batch_size=4,
    single_concurrency=4,
    batch_concurrency=2,
    test_timeout_s=400.0,
)


def main() -> None:
    """Run the tests, measure, and write the report. Exit status: 0 success, 1 a test failed, 2 something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only report what the machine lacks")
    parser.add_argument("--dry-run", action="store_true", help="use the CPU and a tiny network")
    parser.add_argument("--no-tests", action="store_true", help="only measure")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    plan = DRY_RUN if options.dry_run else FULL
    problem = missing_requirements(plan.provider)
    if problem:
        print(f"bench.gpu: {problem}", file=sys.stderr)
        raise SystemExit(2)
    if not options.check:
        raise SystemExit(run(plan, options.out, with_tests=not options.no_tests))


def missing_requirements(provider: Provider) -> str:
    """Return what this interpreter or machine lacks, as a sentence; empty if nothing."""
    absent = [package for module, package in NEEDED.items() if not _is_installed(module)]
    if absent:
        return f"{sys.executable} lacks {', '.join(absent)}: run 'make gpu', or pip install 'zoonnx[all,cuda]' pytest."
    if provider == "cpu":
        return ""
    from serve.engine import session

    reason = session.missing_for_cuda()
    return f"CUDA cannot be used: {reason}" if reason else ""


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def run(plan: Plan, out: Path, *, with_tests: bool) -> int:
    """Run the tests, measure, and write the report, failures included; return the exit status."""
    start_s = time.perf_counter()
    tests = run_tests(plan) if with_tests else {}
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        names = [name for label, network in plan.networks.items() for name in make_models(models, label, network, plan)]
        results = measure(models, names, plan)
    report = {"device": device(plan), "software": software(), "provider": plan.provider, "tests": tests}
    report |= {"seconds": time.perf_counter() - start_s, "models": results}
    write(f"gpu-{date.today()}", report, page(report, plan), out)
    return 0 if all(test["outcome"] == "passed" for test in tests.values()) else 1


def run_tests(plan: Plan) -> dict[str, dict[str, Any]]:
    """Run the gpu-marked tests on the plan's provider; return the outcome and the seconds of each.

    They have their own pytest configuration, which needs no plugin.
    """
    folder = ROOT / "tests" / "gpu"
    with tempfile.TemporaryDirectory() as report_folder:
        report = Path(report_folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-c", folder / "pytest.ini", "--rootdir", ROOT, "-q", folder]
        command += ["--confcutdir", folder, "-m", "gpu", f"--junitxml={report}", "-p", "no:cacheprovider", "--tb=short"]
        environment = {**os.environ, "ZOONNX_GPU_TESTS_ON": plan.provider, "PYTHONPATH": _python_path()}
        try:
            subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=plan.test_timeout_s, stdout=2)
        except subprocess.TimeoutExpired:
            return {
                "all": {"outcome": f"did not finish within {plan.test_timeout_s:g} s", "seconds": plan.test_timeout_s}
            }
        if not report.exists():
            return {"all": {"outcome": "pytest did not run", "seconds": 0.0}}
        cases = list(ET.parse(report).getroot().iter("testcase"))
    return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases} or {
        "all": {"outcome": "no tests were found", "seconds": 0.0}
    }


def _python_path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _outcome(case: ET.Element) -> dict[str, Any]:
    problems = [element.tag for element in case if element.tag in ("failure", "error", "skipped")]
    return {"outcome": problems[0] if problems else "passed", "seconds": float(case.get("time", 0))}


def make_models(models: Path, label: str, network: str, plan: Plan) -> list[str]:
    """Export a network, and convert it to fp16; return the names of both models."""
    zoonnx("export", network, "--to", models, "--name", f"{label}-fp32", "--max-batch-size", plan.max_batch_size)
    convert_to_fp16(models / f"{label}-fp32", models / f"{label}-fp16")
    return [f"{label}-fp32", f"{label}-fp16"]


def convert_to_fp16(fp32: Path, fp16: Path) -> None:
    """Write the fp16 version of a model: the weights take half the space, inputs and outputs stay the same."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(onnx.load(fp32 / "1" / "model.onnx"), keep_io_types=True)
    (fp16 / "1").mkdir(parents=True)
    onnx.save(converted, fp16 / "1" / "model.onnx")
    config = (fp32 / "config.pbtxt").read_text("utf-8").replace(f'name: "{fp32.name}"', f'name: "{fp16.name}"', 1)
    (fp16 / "config.pbtxt").write_text(config, "utf-8")
    for labels in fp32.glob("labels.txt"):
        (fp16 / labels.name).write_bytes(labels.read_bytes())


def measure(models: Path, names: Sequence[str], plan: Plan) -> list[dict[str, Any]]:
    """Measure each model, served and with onnxruntime alone."""
    from bench.load_client import load_client
    from bench.serving import serving

    with serving(models, "--provider", plan.provider, log=None) as server, load_client() as client:
        return [compare(models, name, server, client, plan) for name in names]


def compare(models: Path, name: str, server: Any, client: Any, plan: Plan) -> dict[str, Any]:
    """Measure the images per second of one model, served and alone, in alternating rounds."""
    from bench.serving import batch_counts, run_in_process
    from serve.client.load_test import LoadSettings
    from serve.engine.session import Session

    session = Session.open(models / name / "1" / "model.onnx", plan.provider)
    loads = {
        "singles": LoadSettings(name, plan.single_concurrency, 1, plan.seconds),
        "wholes": LoadSettings(name, plan.batch_concurrency, plan.max_batch_size, plan.seconds),
    }
    rates: dict[str, list[float]] = {"alone_1": [], "alone_largest": [], "singles": [], "wholes": []}
    before = batch_counts(server.url, name)
    for _ in range(plan.rounds):
        rates["alone_1"].append(run_in_process(session, [1], plan.seconds)[0])
        rates["alone_largest"].append(run_in_process(session, [plan.max_batch_size], plan.seconds)[0])
        for kind, load in loads.items():
            rates[kind].append(client.run(server.url, load)["rows_per_s"])
    ratio = ratios(rates["wholes"], rates["alone_largest"])
    batches = batch_counts(server.url, name) - before
    summaries = {kind: summary(values) for kind, values in rates.items()}
    return {
        "model": name,
        "device": session.device,
        **summaries,
        "ratio": ratio,
        "batches": dict(sorted(batches.items())),
    }


def device(plan: Plan) -> str:
    """Return the GPU's name or the CPU's architecture."""
    import torch

    return str(torch.cuda.get_device_name(0)) if plan.provider == "cuda" else platform.machine()


def software() -> dict[str, str]:
    """Return the versions of the software that determines the results."""
    import onnxruntime
    import torch

    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    versions = {"python": platform.python_version(), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    return {**versions, "cuda": str(torch.version.cuda), "cudnn": str(cudnn)}


def page(report: dict[str, Any], plan: Plan) -> str:
    """Return the report as Markdown."""
    passed = sum(test["outcome"] == "passed" for test in report["tests"].values())
    versions = ", ".join(f"{name} {version}" for name, version in report["software"].items())
    text = f"{report['device']}, provider {report['provider']}; {versions}; {report['seconds']:.0f} s in total.\n\n"
    text += f"Tests: {passed} of {len(report['tests'])} passed.\n"
    failed = {name: test["outcome"] for name, test in report["tests"].items() if test["outcome"] != "passed"}
    text += "".join(f"- {name}: {outcome}\n" for name, outcome in failed.items())
    head = [
        "model",
        "onnxruntime alone, batch 1",
        f"batch {plan.max_batch_size}",
        f"served, {plan.single_concurrency} x 1",
    ]
    head += [f"served, {plan.batch_concurrency} x {plan.max_batch_size}", f"ratio at {plan.max_batch_size}", "batches"]
    rows = []
    for model in report["models"]:
        row = [
            model["model"],
            *(format_summary(model[kind], 0) for kind in ("alone_1", "alone_largest", "singles", "wholes")),
        ]
        row += [
            format_summary(model["ratio"], 2),
            ", ".join(f"{count} of {size}" for size, count in model["batches"].items()),
        ]
        rows.append(row)
    return machine_line() + text + "\nImages per second:\n\n" + table(head, rows)


if __name__ == "__main__":
    main()
