"""A run on disk: what was asked, what each epoch measured, and the weights. JSON and safetensors, nothing pickled.

    RUN/config.json        the settings
    RUN/metrics.jsonl      one line an epoch
    RUN/state/             where an unfinished run stands, see resume.py
    RUN/report.html        what there is to see of it, see report/
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

from zoo.data.paths import refuse_taken
from zoo.data.targets import Task
from zoo.errors import CheckpointError
from zoo.networks.preprocessing import Preprocessing
from zoo.networks.timm_config import classes_of, config_of
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import new_folder, standing_folder, write_file
from zoo.transfer.pretrained import Origin

RUN_SCHEMA_VERSION = 1
LAYOUT = (
    "a run holds config.json, metrics.jsonl, last/ and best/, as `zoonnx train NET --data SET --out RUN` writes them"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it lies on disk; `metrics` are those of its epoch, without timings."""

    folder: Path
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    metrics: Mapping[str, float]
    task: Task = "single-label"

    def load_into(self, network: nn.Module) -> None:
        """Give `network` these weights.

        Raises:
            CheckpointError: the file is damaged, or a tensor's name or shape is not the network's.
        """
        file = self.folder / "model.safetensors"
        try:
            weights = safetensors.torch.load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"the weights {file} cannot be read: {error}") from error
        check_tensors(file, weights, network.state_dict())
        network.load_state_dict(weights)


def start_run(run: Path, settings: TrainSettings, licence: str = "", url: str = "") -> None:
    """Make the folder of a new run; `licence` and `url` are those of the weights it begins with, if it does.

    Raises:
        CheckpointError: something lies there already.
    """
    refuse_taken(run)
    run.mkdir(parents=True, exist_ok=True)
    begun_with = {"licence": licence, "url": url}
    config = {"schema_version": RUN_SCHEMA_VERSION, "settings": settings.to_json(), "begun_with": begun_with}
    write_file(run / "config.json", _json(config))


def read_settings(run: Path) -> TrainSettings:
    """The settings of a run.

    Raises:
        CheckpointError: the folder is not a run but of folds or none, or of a schema that this version does not know.
    """
    if holds_folds(run):
        raise CheckpointError(f"{run} holds a run for each of several folds; name one of them: {run / 'fold-1'}")
    config = read_json(run / "config.json")
    if config.get("schema_version") != RUN_SCHEMA_VERSION:
        found = config.get("schema_version")
        raise CheckpointError(f"{run / 'config.json'} should have schema_version {RUN_SCHEMA_VERSION}; it has {found}")
    return TrainSettings.from_json(config["settings"])


def holds_folds(run: Path) -> bool:
    """Whether `--folds` made the folder: its runs lie in fold-1 and so on."""
    return (run / "fold-1" / "config.json").is_file()


def read_origin(run: Path) -> Origin:
    """Where the weights come from that the run began with."""
    return Origin(**read_json(run / "config.json").get("begun_with", {"licence": "", "url": ""}))


def write_epochs(run: Path, epochs: Sequence[Mapping[str, float]]) -> None:
    """Replace the run's metrics.jsonl."""
    write_file(run / "metrics.jsonl", "".join(json.dumps(dict(values)) + "\n" for values in epochs).encode())


def read_epochs(run: Path) -> list[dict[str, float]]:
    """What each epoch measured.

    Raises:
        CheckpointError: the run's metrics.jsonl is missing or cannot be read.
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
    """Write a checkpoint; one that stood there is replaced only by a whole new one."""
    # A copy of each tensor, since safetensors refuses those that share memory.
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    with new_folder(folder) as unfinished:
        safetensors.torch.save_file(weights, unfinished / "model.safetensors")
        (unfinished / "config.json").write_bytes(_json({**_timm_config(network, labels), "task": task}))
        (unfinished / "metrics.json").write_bytes(_json(metrics))


def save_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Replace the metrics of a checkpoint that is there."""
    write_file(folder / "metrics.json", _json(metrics))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read all of a checkpoint but its weights.

    Raises:
        CheckpointError: it is missing or incomplete.
    """
    folder = standing_folder(folder)
    config = read_json(folder / "config.json")
    try:
        cfg = config["pretrained_cfg"]
        shape = {name: cfg[name] for name in Preprocessing.__dataclass_fields__}
        architecture, labels = str(config["architecture"]), tuple(config["label_names"])
    except KeyError as error:
        raise CheckpointError(f"{folder / 'config.json'} lacks {error}; {LAYOUT}") from error
    metrics = read_json(folder / "metrics.json")
    task = config.get("task", "single-label")
    if task not in get_args(Task):
        raise CheckpointError(f"{folder / 'config.json'} has the task '{task}'; it is {' or '.join(get_args(Task))}")
    return Checkpoint(folder, architecture, labels, Preprocessing.from_json(shape), metrics, task)


def _timm_config(network: nn.Module, labels: Sequence[str]) -> dict[str, Any]:
    """What timm's `local-dir:` source reads beside the weights."""
    preprocessing, cfg, classes = Preprocessing.from_net(network), config_of(network), classes_of(network)
    kept = {name: cfg.get(name) for name in ("first_conv", "classifier", "fixed_input_size")}
    return {
        "architecture": cfg["architecture"],
        "num_classes": classes,
        "num_features": network.num_features,
        "label_names": list(labels),
        "pretrained_cfg": {**kept, **preprocessing.to_json(), "num_classes": classes},
    }


def check_tensors(file: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Require tensors of exactly the expected names and shapes.

    Raises:
        CheckpointError: the first one that does not match is named.
    """
    for name in expected:
        if name not in weights:
            raise CheckpointError(f"{file} lacks the tensor '{name}' that the network has; it is of another network")
        if weights[name].shape != expected[name].shape:
            have, want = tuple(weights[name].shape), tuple(expected[name].shape)
            raise CheckpointError(f"in {file} the tensor '{name}' has shape {have}; the network's has {want}")
    for name in weights:
        if name not in expected:
            raise CheckpointError(
                f"{file} holds a tensor '{name}' that the network does not have; it is of another network"
            )


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(values), indent=2) + "\n").encode()


def read_json(file: Path) -> dict[str, Any]:
    """The object that a run's file holds.

    Raises:
        CheckpointError: it is missing, or holds none.
    """
    try:
        values = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no {file}; {LAYOUT}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} should hold a JSON object; it holds a {type(values).__name__}")
    return values
