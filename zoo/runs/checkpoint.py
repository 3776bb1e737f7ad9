"""A run on disk: settings, metrics and weights. JSON and safetensors, nothing pickled.

    RUN/config.json        the settings
    RUN/metrics.jsonl      one line per epoch
    RUN/state/             how to continue an unfinished run, see zoo/training/resume.py
    RUN/report.html        figures and tables, see zoo/report/
    RUN/README.md          a model card
    RUN/last/  RUN/best/   checkpoints: model.safetensors, config.json, metrics.json

A checkpoint's config.json is in timm's own format, so `timm.create_model('local-dir:RUN/best', pretrained=True)` works.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.data.paths import require_empty_dir
from zoo.data.targets import Task
from zoo.errors import CheckpointError
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.timm_config import classes_of, config_of
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import folder_or_backup, new_folder, write_file
from zoo.transfer.pretrained import Origin

RUN_SCHEMA_VERSION = 1
LAYOUT = (
    "a run holds config.json, metrics.jsonl, last/ and best/, as written by "
    "`zoonnx train NETWORK --data DATA --out RUN`"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk, apart from its weights.

    Attributes:
        folder: The checkpoint's folder.
        architecture: Name of the network, or of its backbone.
        labels: Names of the classes by index.
        preprocessing: What the network expects of an image.
        metrics: Of the checkpoint's epoch, without timings.
        task: Whether an image has one label or several.
    """

    folder: Path
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: Mapping[str, float]
    task: Task = "single-label"

    def load_into(self, network: nn.Module) -> None:
        """Load the weights into `network`.

        Raises:
            CheckpointError: The file cannot be read, or its tensors differ from the network's in name or shape.
        """
        file = self.folder / "model.safetensors"
        try:
            weights = safetensors.torch.load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"the weights {file} cannot be read: {error}") from error
        check_tensors(file, weights, network.state_dict())
        network.load_state_dict(weights)


def start_run(run: Path, settings: TrainSettings, licence: str = "", url: str = "") -> None:
    """Create the folder of a new run, with its settings and the licence and URL of its pretrained weights, if any.

    Raises:
        CheckpointError: The folder exists and is not empty.
    """
    require_empty_dir(run)
    run.mkdir(parents=True, exist_ok=True)
    config = {
        "schema_version": RUN_SCHEMA_VERSION,
        "settings": settings.to_json(),
        "begun_with": {"licence": licence, "url": url},
    }
    write_file(run / "config.json", _json_bytes(config))


def read_settings(run: Path) -> TrainSettings:
    """Read the settings of a run.

    Raises:
        CheckpointError: The folder is not a run, or a cross-validation, or has an unknown schema version.
    """
    if holds_folds(run):
        raise CheckpointError(f"{run} is a cross-validation with a run per fold; name one of them: {run / 'fold-1'}")
    config = read_json(run / "config.json")
    if config.get("schema_version") != RUN_SCHEMA_VERSION:
        version = config.get("schema_version")
        raise CheckpointError(
            f"{run / 'config.json'} should have schema_version {RUN_SCHEMA_VERSION}; it has {version}"
        )
    return TrainSettings.from_json(config["settings"])


def holds_folds(run: Path) -> bool:
    """Return whether the folder is a cross-validation: its runs are in fold-1, fold-2, ..."""
    return (run / "fold-1" / "config.json").is_file()


def read_origin(run: Path) -> Origin:
    """Read where the pretrained weights of a run came from; empty if it was trained from scratch."""
    return Origin(**read_json(run / "config.json").get("begun_with", {"licence": "", "url": ""}))


def write_epochs(run: Path, epochs: Sequence[Mapping[str, float]]) -> None:
    """Replace the run's metrics.jsonl."""
    write_file(run / "metrics.jsonl", "".join(json.dumps(dict(values)) + "\n" for values in epochs).encode())


def read_epochs(run: Path) -> list[dict[str, float]]:
    """Read the metrics of each epoch.

    Raises:
        CheckpointError: The run's metrics.jsonl is missing or cannot be read.
    """
    file = run / "metrics.jsonl"
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; {LAYOUT}") from error


def save_checkpoint(
    folder: Path,
    network: nn.Module,
    labels: Sequence[str],
    metrics: Mapping[str, float],
    task: Task = "single-label",
) -> None:
    """Write a checkpoint; an existing one is replaced only once the new one is complete."""
    # Clone each tensor, since safetensors refuses tensors that share memory.
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    with new_folder(folder) as unfinished:
        safetensors.torch.save_file(weights, unfinished / "model.safetensors")
        (unfinished / "config.json").write_bytes(_json_bytes({**_timm_config(network, labels), "task": task}))
        (unfinished / "metrics.json").write_bytes(_json_bytes(metrics))


def save_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Replace the metrics of an existing checkpoint."""
    write_file(folder / "metrics.json", _json_bytes(metrics))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, apart from its weights.

    Raises:
        CheckpointError: It is missing or incomplete.
    """
    folder = folder_or_backup(folder)
    config = read_json(folder / "config.json")
    try:
        cfg = config["pretrained_cfg"]
        preprocessing = {name: cfg[name] for name in Preprocessing.__dataclass_fields__}
        architecture, labels = str(config["architecture"]), tuple(config["label_names"])
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'} lacks {error}; {LAYOUT}") from error
    metrics = read_json(folder / "metrics.json")
    task = config.get("task", "single-label")
    if task not in get_args(Task):
        raise CheckpointError(f"{folder / 'config.json'} has the task '{task}'; expected {' or '.join(get_args(Task))}")
    return Checkpoint(folder, architecture, labels, Preprocessing.from_json(preprocessing), metrics, task)


def _timm_config(network: nn.Module, labels: Sequence[str]) -> dict[str, Any]:
    """Return what timm's `local-dir:` source reads besides the weights."""
    preprocessing, cfg, classes = Preprocessing.from_network(network), config_of(network), classes_of(network)
    inherited = {name: cfg.get(name) for name in ("first_conv", "classifier", "fixed_input_size")}
    return {
        "architecture": cfg["architecture"],
        "num_classes": classes,
        "num_features": network.num_features,
        "label_names": list(labels),
        "pretrained_cfg": {**inherited, **preprocessing.to_json(), "num_classes": classes},
    }


def check_tensors(file: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Require tensors of exactly the expected names and shapes.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape; the first one is named.
    """
    for name in expected:
        if name not in weights:
            raise CheckpointError(f"{file} lacks the network's tensor '{name}'; it belongs to another network")
        if weights[name].shape != expected[name].shape:
            actual_shape, expected_shape = tuple(weights[name].shape), tuple(expected[name].shape)
            raise CheckpointError(
                f"in {file} the tensor '{name}' has shape {actual_shape}; the network's has {expected_shape}"
            )
    for name in weights:
        if name not in expected:
            raise CheckpointError(
                f"{file} contains the tensor '{name}', which the network does not have; it belongs to another network"
            )


def _json_bytes(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(values), indent=2) + "\n").encode()


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a run's file.

    Raises:
        CheckpointError: The file is missing, or is not a JSON object.
    """
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {file}; {LAYOUT}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} should contain a JSON object; it contains a {type(values).__name__}")
    return values
