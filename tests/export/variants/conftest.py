"""A trained network with all its variants, built once. Only tests of speed set a minimum speedup."""

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
class ExportWithVariants:
    """An export and the outcomes of its variants."""

    exported: Exported
    plan: Plan
    outcomes: dict[Kind, Outcome]

    @property
    def models(self) -> Path:
        return self.exported.folder.parent.parent


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training run of convnet4 on digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(TrainSettings(network="convnet4", data="digits", epochs=3, device="cpu"), folder)
    return folder


@pytest.fixture(scope="session")
def trained(run: Path) -> LoadedNetwork:
    """The network of that run."""
    return load_network(run)


def export_with_variants(
    loaded: LoadedNetwork, to: Path, settings: VariantSettings, *, raw: bool = False
) -> ExportWithVariants:
    """Export `loaded` as the model `network` and build its variants."""
    variant_plan = plan(loaded, to, "network", settings)
    exported = export_model(loaded, ExportSettings(to=to, name="network", raw=raw))
    outcomes = make_variants(variant_plan, exported.folder)
    return ExportWithVariants(exported, variant_plan, {outcome.kind: outcome for outcome in outcomes})


def build_again(original: ExportWithVariants, to: Path, settings: VariantSettings) -> dict[Kind, Outcome]:
    """Build variants with other settings in a copy of the same export."""
    folder = to / "models" / "network" / "1"
    shutil.copytree(original.models / "network", folder.parent)
    outcomes = make_variants(replace(original.plan, settings=settings), folder)
    return {outcome.kind: outcome for outcome in outcomes}


@pytest.fixture(scope="session")
def all_variants(trained: LoadedNetwork, tmp_path_factory: pytest.TempPathFactory) -> ExportWithVariants:
    """The export of that network with all four variants."""
    settings = VariantSettings(KINDS, bounds=ANY_SPEED)
    return export_with_variants(trained, tmp_path_factory.mktemp("variants") / "models", settings)
