"""A trained network, and all its variants, made once. Speed is bound nowhere but where it is tested: machines are busy."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from export import Exported, ExportSettings, export_model
from export.variants.runner import Outcome, Plan, make_variants, plan
from export.variants.settings import KINDS, Bounds, Kind, VariantSettings
from zoo import LoadedNetwork, load_network
from zoo.settings import TrainSettings
from zoo.training.trainer import train

ANY_SPEED = Bounds(min_speedup=0)


@dataclass(frozen=True, eq=False)
class Everything:
    """An export with each of its variants."""

    exported: Exported
    planned: Plan
    outcomes: dict[Kind, Outcome]

    @property
    def models(self) -> Path:
        return self.exported.folder.parent.parent


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of convnet4 on digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(TrainSettings(network="convnet4", data="digits", epochs=3, device="cpu"), folder)
    return folder


@pytest.fixture(scope="session")
def trained(run: Path) -> LoadedNetwork:
    """The network of that run."""
    return load_network(run)


def make(loaded: LoadedNetwork, to: Path, settings: VariantSettings, *, raw: bool = False) -> Everything:
    """Export `loaded` as `network` and make its variants."""
    planned = plan(loaded, to, "network", settings)
    exported = export_model(loaded, ExportSettings(to=to, name="network", raw=raw))
    outcomes = make_variants(planned, exported.folder)
    return Everything(exported, planned, {each.kind: each for each in outcomes})


def again(everything: Everything, to: Path, settings: VariantSettings) -> dict[Kind, Outcome]:
    """Make other variants of the same export, in a copy of it."""
    folder = to / "models" / "network" / "1"
    shutil.copytree(everything.models / "network", folder.parent)
    outcomes = make_variants(replace(everything.planned, settings=settings), folder)
    return {each.kind: each for each in outcomes}


@pytest.fixture(scope="session")
def everything(trained: LoadedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """All four variants of it."""
    return make(trained, tmp_path_factory.mktemp("variants") / "models", VariantSettings(KINDS, bounds=ANY_SPEED))
