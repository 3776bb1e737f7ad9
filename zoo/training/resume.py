"""The state of an unfinished run on disk: RUN/state, safetensors and JSON, replaced as a whole.

All random draws follow from the seed, the epoch and the batch or the image, and the learning rate from the number of
the step. So the weights, the optimiser's state and the position suffice to continue a run bit for bit. A finished run
has no state.
"""

import json
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from zoo.errors import CheckpointError, SettingsError
from zoo.runs.checkpoint import check_tensors, holds_folds, read_json, read_settings
from zoo.settings import TrainSettings
from zoo.storage.atomic_io import backup_path, folder_or_backup, new_folder
from zoo.training.device import device_of

CHANGEABLE_SETTINGS = ("workers", "checkpoint_every_steps", "track")  # they have no effect on the weights
JSON_TYPES = (bool, int, float, str, type(None))


@dataclass
class Position:
    """How far a run has come. The field names are keys of RUN/state/state.json.

    Attributes:
        epoch: The current epoch, counted from 1.
        batch: Completed batches of the current epoch.
        losses: Their losses.
        history: A line of metrics.jsonl for each completed epoch.
    """

    epoch: int = 1
    batch: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(
    run: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    position: Position,
    dataset_key: str,
) -> None:
    """Write everything that is needed to continue from `position`."""
    tensors, values = _split_optimizer_state(optimizer.state_dict())
    state = {
        **asdict(position),
        "data_key": dataset_key,
        "optimizer": values,
        "scaler": scaler.state_dict() if scaler else None,
    }
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    with new_folder(run / "state") as unfinished:
        safetensors.torch.save_file(weights, unfinished / "model.safetensors")
        safetensors.torch.save_file(tensors, unfinished / "optimizer.safetensors")
        (unfinished / "state.json").write_text(json.dumps(state), encoding="utf-8")


def load_state(
    run: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
    dataset_key: str,
) -> Position:
    """Restore module, optimiser and scaler; return the position, the beginning if nothing was saved.

    Raises:
        CheckpointError: The state cannot be read, or belongs to other training images.
    """
    folder = folder_or_backup(run / "state")
    if not folder.is_dir():
        return Position()
    state = read_json(folder / "state.json")
    if state["data_key"] != dataset_key:
        raise CheckpointError(f"the training images of {run} have changed since it started; start a new run on them")
    try:
        weights, tensors = (
            safetensors.torch.load_file(folder / f"{name}.safetensors") for name in ("model", "optimizer")
        )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the state {folder} cannot be read: {error}") from error
    check_tensors(folder / "model.safetensors", weights, module.state_dict())
    module.load_state_dict(weights)
    optimizer.load_state_dict(_join_optimizer_state({**tensors, **state["optimizer"]}, optimizer.state_dict()))
    _restore_memory_layout(optimizer)
    if scaler is not None:
        scaler.load_state_dict(state["scaler"])
    return Position(**{field.name: state[field.name] for field in fields(Position)})


def delete_state(run: Path) -> None:
    """Delete the state of a run that has finished."""
    for folder in (run / "state", backup_path(run / "state")):
        shutil.rmtree(folder, ignore_errors=True)


def check_resumable(run: Path, settings: TrainSettings) -> None:
    """Require an unfinished run with these settings.

    Raises:
        CheckpointError: There is no run, or it has finished.
        SettingsError: The run has other settings (they are named), or is a cross-validation.
    """
    if holds_folds(run):
        folds = read_settings(run / "fold-1").folds
        raise SettingsError(f"{run} was started with --folds {folds}; continue it with --folds {folds} --resume")
    check_same_settings(run, settings)
    if has_finished(run):
        raise CheckpointError(f"{run} has finished; there is nothing to resume")


def check_same_settings(run: Path, settings: TrainSettings) -> None:
    """Require a run with these settings, apart from CHANGEABLE_SETTINGS.

    Raises:
        CheckpointError: There is no run.
        SettingsError: The run has other settings; they are named.
    """
    earlier = read_settings(run)
    differences = [
        f"{name} was {getattr(earlier, name)}, now {getattr(settings, name)}"
        for name in (field.name for field in fields(TrainSettings))
        if name not in CHANGEABLE_SETTINGS and _differs(earlier, settings, name)
    ]
    if differences:
        raise SettingsError(f"{run} was started with other settings: {'; '.join(differences)}")


def has_finished(run: Path) -> bool:
    """Return whether a run has been evaluated on the test split, its last step."""
    best = folder_or_backup(run / "best")
    return best.is_dir() and "test_accuracy" in read_json(best / "metrics.json")


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that the current step is finished; a second one interrupts."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def set_event(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous_handler)

    previous_handler = signal.signal(signal.SIGINT, set_event)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous_handler)


def _differs(earlier: TrainSettings, settings: TrainSettings, name: str) -> bool:
    if name == "device" and "auto" in (earlier.device, settings.device):  # compare the device that auto selects here
        return device_of(earlier) != device_of(settings)
    return bool(getattr(earlier, name) != getattr(settings, name))


def _split_optimizer_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors and JSON values, by `parameter.INDEX.NAME` or `group.INDEX.NAME`."""
    tensors, values = {}, {}
    for key, value in _flat_items(state):
        if isinstance(value, Tensor):
            tensors[key] = value.detach().cpu().clone().contiguous()
        elif isinstance(value, JSON_TYPES):
            values[key] = value
        elif key.startswith("parameter."):
            raise CheckpointError(f"this optimizer keeps a {type(value).__name__} ({key}), which cannot be saved")
    return tensors, values


def _flat_items(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for index, parameter_state in state["state"].items():
        yield from ((f"parameter.{index}.{name}", value) for name, value in parameter_state.items())
    for index, group in enumerate(state["param_groups"]):
        yield from ((f"group.{index}.{name}", value) for name, value in group.items())


def _join_optimizer_state(flat: Mapping[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Undo `_split_optimizer_state`, starting from the state of a fresh optimiser of the same parameters."""
    parameter_states: dict[int, dict[str, Any]] = {}
    groups = [dict(group) for group in fresh["param_groups"]]
    for key, value in flat.items():
        kind, index, name = key.split(".", 2)
        target = groups[int(index)] if kind == "group" else parameter_states.setdefault(int(index), {})
        target[name] = value
    return {"state": parameter_states, "param_groups": groups}


def _restore_memory_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay out the state like its parameters, as a fresh optimiser does: safetensors files contain no strides."""
    for parameter, parameter_state in optimizer.state.items():
        for name, value in parameter_state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                parameter_state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
