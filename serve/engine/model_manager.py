"""Which models of a repository run: loads them beside what is served, swaps, and lets the old ones finish.

A version that cannot be loaded never stops one that can. As many versions as the policy wants are served, the newest
that load, and the index names the error of each newer one. So a restart serves what the running server served, where a
Triton would refuse to start.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from serve.engine.model import Model
from serve.engine.model_registry import ModelRegistry
from serve.errors import BadModelError, LoadFailedError, NotInRepositoryError, SetupError, UnavailableError
from serve.repository import repository
from serve.repository.repository import Fingerprint, ModelFiles
from serve.settings import ServerSettings

log = logging.getLogger(__name__)
State = Literal["READY", "UNAVAILABLE", "LOADING", ""]
Changed = Callable[[str, bool], Awaitable[None]]


@dataclass(frozen=True)
class IndexEntry:
    """What is known of one version; an empty `version` is the model as a whole, an empty `state` one never loaded."""

    name: str
    version: str = ""
    state: State = ""
    reason: str = ""


@dataclass(frozen=True)
class Loaded:
    """The versions of one model that loaded, and why others did not, by version; 0 is the model as a whole."""

    models: Sequence[Model] = ()
    problems: Mapping[int, str] = field(default_factory=dict)
    seen: Fingerprint = ()


class ModelManager:
    """Loads and unloads models. `changed(name, ready)` is told of each model that comes or goes."""

    def __init__(self, core: ModelRegistry, settings: ServerSettings, changed: Changed) -> None:
        self._core, self._settings, self._changed = core, settings, changed
        self._known: dict[str, Loaded] = {}
        self._loading: set[str] = set()
        self._one_at_a_time = asyncio.Lock()
        self._draining: set[asyncio.Task[None]] = set()
        self._poller: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what is to run from the start.

        Raises:
            SetupError: a model has no version that can be served, or is not there.
        """
        for files in await asyncio.to_thread(self._wanted_at_start):
            seen = await asyncio.to_thread(repository.fingerprint, self._folder(files.name))
            loaded = await asyncio.to_thread(self._load_files, files, seen)
            if not loaded.models:
                raise BadModelError(next(iter(loaded.problems.values())))
            await self._serve(files.name, loaded)
        self._core.open()
        if self._settings.model_control == "poll":
            self._poller = asyncio.create_task(self._poll_for_ever())

    async def close(self) -> None:
        """Look no more, and wait for what was swapped out."""
        if self._poller:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)
        await asyncio.gather(*self._draining)

    async def load(self, name: str) -> None:
        """Load a model, or its present files in place of what runs.

        Raises:
            UnavailableError: the server's model control is not explicit.
            NotInRepositoryError: there is no model of that name.
            LoadFailedError: a version that should be served cannot be; the newest that can is.
        """
        self._check_explicit()
        async with self._one_at_a_time:
            if name not in await asyncio.to_thread(self._names):
                raise NotInRepositoryError(f"the repository has no model '{name}'.")
            problems = (await self._reload(name)).problems
        if problems:
            raise LoadFailedError(f"model '{name}' cannot be loaded as it is: {next(iter(problems.values()))}")

    async def unload(self, name: str) -> None:
        """Serve a model no more; one that is not served stays so. Raises: UnavailableError, as `load` does."""
        self._check_explicit()
        async with self._one_at_a_time:
            if self._core.versions(name):
                await self._serve(name, Loaded())

    async def index(self) -> list[IndexEntry]:
        """Say of every model in the repository, and of every one that was, what it does; sorted."""
        names = {*await asyncio.to_thread(self._names), *self._known}
        return [entry for name in sorted(names) for entry in self._entries(name)]

    async def poll(self) -> None:
        """Look once at the repository, and follow what has changed."""
        async with self._one_at_a_time:
            names = await asyncio.to_thread(self._names)
            for name in names:
                before = self._known.get(name, Loaded())
                if await asyncio.to_thread(repository.fingerprint, self._folder(name)) != before.seen:
                    await self._reload(name)
            for name in set(self._known) - set(names):
                await self._serve(name, Loaded())
                del self._known[name]

    async def _poll_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            try:
                await self.poll()
            except Exception:
                log.exception("the repository %s could not be looked at", self._settings.models)

    async def _reload(self, name: str) -> Loaded:
        """Load a model's present files; versions that cannot be are made up for by what loads, or what runs."""
        self._loading.add(name)
        try:
            loaded = await asyncio.to_thread(self._load, name)
        finally:
            self._loading.discard(name)
        if not loaded.models:
            loaded = Loaded(self._core.models(name) if self._core.versions(name) else (), loaded.problems, loaded.seen)
        await self._serve(name, loaded)
        return self._known[name]

    async def _serve(self, name: str, loaded: Loaded) -> None:
        for problem in loaded.problems.values():
            log.error("%s: %s", name, problem)
        self._known[name] = replace(loaded, problems=self._for_clients(name, loaded.problems))
        for model in self._core.swap(name, loaded.models):
            task = asyncio.create_task(model.close())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        await self._changed(name, bool(loaded.models))

    def _for_clients(self, name: str, problems: Mapping[int, str]) -> Mapping[int, str]:
        """Where the repository stands is the server's own affair: the log has the whole paths."""
        models = self._settings.models
        return {number: repository.redact_paths(words, models, name, number) for number, words in problems.items()}

    def _load(self, name: str) -> Loaded:
        """Load a model's files as they are now; what runs from the very same files runs on."""
        seen = repository.fingerprint(self._folder(name))
        try:
            files = repository.read_model(self._folder(name))
        except Exception as error:  # noqa: BLE001  one model must not stop the others
            return Loaded((), {0: _words(error, name)}, seen)
        return self._load_files(files, seen)

    def _load_files(self, files: ModelFiles, seen: Fingerprint) -> Loaded:
        """Load the newest versions that can be, as many as are wanted."""
        running = self._unchanged(files.name, seen)
        models: list[Model] = []
        problems: dict[int, str] = {}
        for candidate in files.candidates:
            if len(models) == files.wanted:
                break
            try:
                models.append(running.get(candidate.number) or Model.load(files, candidate.read(), self._settings))
            except Exception as error:  # noqa: BLE001  as above
                problems[candidate.number] = _words(error, f"{files.name}, version {candidate.number},")
        return Loaded(sorted(models, key=lambda model: model.version), problems, seen)

    def _unchanged(self, name: str, seen: Fingerprint) -> Mapping[int, Model]:
        """The running versions of which every file is as it was when they were loaded."""
        known = self._known.get(name, Loaded())
        if known.problems.keys() & {0, *(model.version for model in known.models)}:
            return {}
        same = {model for model in known.models if _part(known.seen, model.version) == _part(seen, model.version)}
        return {model.version: model for model in same}

    def _wanted_at_start(self) -> list[ModelFiles]:
        if self._settings.model_control != "explicit":
            return repository.read(self._settings.models)
        names = self._names()
        for name in self._settings.load_models:
            if name not in names:
                raise BadModelError(f"{self._settings.models} has no model '{name}', which is to be loaded.")
        return [repository.read_model(self._folder(name)) for name in self._settings.load_models]

    def _names(self) -> list[str]:
        place = self._settings.models
        return repository.list_names(place) if place.is_dir() else [place.stem]

    def _folder(self, name: str) -> Path:
        return self._settings.models / name

    def _entries(self, name: str) -> list[IndexEntry]:
        if name in self._loading and not self._core.versions(name):
            return [IndexEntry(name, state="LOADING")]
        problems = self._known.get(name, Loaded()).problems
        bad = {str(number or ""): reason for number, reason in problems.items()}
        entries = [IndexEntry(name, version, "UNAVAILABLE", reason) for version, reason in bad.items()]
        entries += [IndexEntry(name, str(version), "READY") for version in self._core.versions(name)]
        retired = [str(version) for version in self._core.retired(name) if str(version) not in bad]
        entries += [IndexEntry(name, version, "UNAVAILABLE", "unloaded") for version in retired]
        return sorted(entries, key=lambda entry: int(entry.version or 0)) or [IndexEntry(name)]

    def _check_explicit(self) -> None:
        control = self._settings.model_control
        if control != "explicit":
            raise UnavailableError(f"models are not loaded by clients here: the model control is {control}.")


def _words(error: Exception, name: str) -> str:
    """Say why a model cannot be loaded; what nobody foresaw goes into the log in full."""
    if isinstance(error, SetupError):
        return str(error)
    log.error("%s failed to load", name, exc_info=error)
    return f"{name} failed to load: {type(error).__name__}; the server's log says where."


def _part(seen: Fingerprint, version: int) -> Fingerprint:
    """What concerns one version: its own files, and those that all versions share."""
    return tuple(entry for entry in seen if "/" not in entry[0] or entry[0].startswith(f"{version}/"))
