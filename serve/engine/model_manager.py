"""Loads and unloads the models of a repository while the server runs, without interrupting requests.

A version that cannot be loaded does not affect others. The newest loadable versions are served, as many as the version
policy selects, and the repository index reports the errors of newer versions. So a restarted server serves the same
versions as before, whereas Triton would not start.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from serve.engine.model import Model
from serve.engine.model_registry import ModelRegistry
from serve.errors import (
    BadModelError,
    LoadFailedError,
    NotInRepositoryError,
    RepositoryError,
    SetupError,
    UnavailableError,
)
from serve.repository import layout, repository
from serve.repository.repository import Fingerprint, ModelFiles
from serve.settings import ServerSettings

log = logging.getLogger(__name__)
State = Literal["READY", "UNAVAILABLE", "LOADING", ""]
OnReadyChange = Callable[[str, bool], None]


@dataclass(frozen=True)
class IndexEntry:
    """State of one version in the repository index.

    Attributes:
        name: The model's name.
        version: The version's number; empty for the model itself.
        state: The version's state; empty if it was never loaded.
        reason: Why it is not ready; empty if it is ready.
    """

    name: str
    version: str = ""
    state: State = ""
    reason: str = ""


@dataclass(frozen=True)
class LoadResult:
    """Outcome of loading one model.

    Attributes:
        models: The loaded versions, ascending.
        errors: Messages by version; 0 is the model itself.
        fingerprint: State of the model's files when they were loaded.
    """

    models: Sequence[Model] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    fingerprint: Fingerprint = ()


class ModelManager:
    """Loads and unloads models. `on_ready_change(name, ready)` is called for each loaded or unloaded model.

    Loading takes seconds: call these methods in a thread that may block.
    """

    def __init__(self, registry: ModelRegistry, settings: ServerSettings, on_ready_change: OnReadyChange) -> None:
        self._registry, self._settings, self._on_ready_change = registry, settings, on_ready_change
        self._results: dict[str, LoadResult] = {}
        self._loading: set[str] = set()
        self._change_lock = threading.Lock()
        self._draining: set[threading.Thread] = set()
        self._stop_polling = threading.Event()
        self._poller = threading.Thread(target=self._poll_forever, name="poller", daemon=True)

    def start(self) -> None:
        """Load the initial models; unless the settings are strict, those that can be loaded are enough.

        Raises:
            SetupError: No model can be loaded, or, in a strict server, one cannot; or a model to load does not exist.
        """
        results: dict[str, LoadResult] = {}
        for name in self._initial_names():
            results[name] = self._load(name)
            if self._settings.strict:
                _require_models({name: results[name]})
        _require_models(results)
        for name, result in results.items():
            self._serve(name, result)
        self._registry.open()
        if self._settings.model_control == "poll":
            self._poller.start()

    @property
    def failed(self) -> int:
        """Number of models of which no version can be loaded."""
        return sum(not self._registry.versions(name) for name, result in self._results.items() if result.errors)

    def close(self, timeout_s: float) -> bool:
        """Stop polling, and wait for the requests of replaced versions; return False if `timeout_s` is not enough."""
        self._stop_polling.set()
        end_s = time.monotonic() + timeout_s
        threads = [*self._draining, *([self._poller] if self._poller.is_alive() else [])]
        for thread in threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def load(self, name: str) -> None:
        """Load a model, or reload it from its current files.

        Raises:
            UnavailableError: The server's model control is not explicit.
            NotInRepositoryError: There is no model of that name.
            LoadFailedError: A version that the policy selects cannot be loaded; the newest loadable one is served.
        """
        self._require_explicit()
        with self._change_lock:
            if name not in self._names():
                raise NotInRepositoryError(f"the repository has no model '{name}'.")
            errors = (self._reload(name)).errors
        if errors:
            raise LoadFailedError(f"model '{name}' cannot be loaded: {next(iter(errors.values()))}")

    def unload(self, name: str) -> None:
        """Stop serving a model; a model that is not served is ignored.

        Raises:
            UnavailableError: The server's model control is not explicit.
        """
        self._require_explicit()
        with self._change_lock:
            if self._registry.versions(name):
                self._serve(name, LoadResult())

    def index(self) -> list[IndexEntry]:
        """Return the state of each model that is, or was, in the repository, sorted by name and version."""
        names = {*self._names(), *self._results}
        return [entry for name in sorted(names) for entry in self._entries(name)]

    def poll(self) -> None:
        """Scan the repository once, and load, reload or unload the models whose files changed."""
        with self._change_lock:
            names = self._names()
            for name in names:
                previous = self._results.get(name, LoadResult())
                if repository.fingerprint(self._folder(name)) != previous.fingerprint:
                    self._reload(name)
            for name in set(self._results) - set(names):
                self._results = {other: result for other, result in self._results.items() if other != name}
                self._swap(name, ())

    def _poll_forever(self) -> None:
        while not self._stop_polling.wait(self._settings.poll_interval_s):
            try:
                self.poll()
            except Exception:
                log.exception("the repository %s could not be scanned", self._settings.models)

    def _reload(self, name: str) -> LoadResult:
        """Load a model's current files; if no version loads, the served versions stay in service."""
        self._loading.add(name)
        try:
            result = self._load(name)
        finally:
            self._loading.discard(name)
        if not result.models and self._registry.versions(name):
            result = replace(result, models=self._registry.models(name))
        self._serve(name, result)
        return self._results[name]

    def _serve(self, name: str, result: LoadResult) -> None:
        for error in result.errors.values():
            log.error("%s: %s", name, error)
        redacted = replace(result, errors=self._redacted(name, result.errors))
        self._results = {**self._results, name: redacted}  # other threads read it
        self._swap(name, result.models)

    def _swap(self, name: str, models: Sequence[Model]) -> None:
        """Serve these versions of a model from now on, and close those that they replace."""
        for model in self._registry.swap(name, models):
            self._drain(model)
        self._on_ready_change(name, bool(models))

    def _drain(self, model: Model) -> None:
        """Close a model that is no longer served, once its requests are finished."""

        def close() -> None:
            model.close()
            self._draining.discard(threading.current_thread())

        thread = threading.Thread(target=close, name=f"closing {model.name}/{model.version}", daemon=True)
        self._draining.add(thread)
        thread.start()

    def _redacted(self, name: str, errors: Mapping[int, str]) -> Mapping[int, str]:
        """Return the errors for clients, without the repository's location, which only the log contains."""
        models = self._settings.models
        return {number: repository.redact_paths(error, models, name, number) for number, error in errors.items()}

    def _load(self, name: str) -> LoadResult:
        """Load a model's current files; versions whose files are unchanged are not loaded again."""
        fingerprint = repository.fingerprint(self._folder(name))
        try:
            files = repository.read_model(self._settings.models, name)
        except Exception as error:  # noqa: BLE001  an error in one model must not affect others
            return LoadResult((), {0: _load_error(error, name)}, fingerprint)
        return self._load_files(files, fingerprint)

    def _load_files(self, files: ModelFiles, fingerprint: Fingerprint) -> LoadResult:
        """Load the newest loadable versions, as many as the version policy selects."""
        unchanged = self._unchanged(files.name, fingerprint)
        models: list[Model] = []
        errors: dict[int, str] = {}
        for candidate in files.candidates:
            if len(models) == files.served_count:
                break
            try:
                models.append(unchanged.get(candidate.number) or Model.load(files, candidate.read(), self._settings))
            except Exception as error:  # noqa: BLE001  as above
                errors[candidate.number] = _load_error(error, f"{files.name}, version {candidate.number},")
        return LoadResult(sorted(models, key=lambda model: model.version), errors, fingerprint)

    def _unchanged(self, name: str, fingerprint: Fingerprint) -> Mapping[int, Model]:
        """Return the loaded versions whose files, including the shared ones, have not changed."""
        result = self._results.get(name, LoadResult())
        if result.errors.keys() & {0, *(model.version for model in result.models)}:
            return {}
        return {
            model.version: model
            for model in result.models
            if _version_files(result.fingerprint, model.version) == _version_files(fingerprint, model.version)
        }

    def _initial_names(self) -> Sequence[str]:
        """Return the models to load at startup; a repository that is polled, or loaded on request, may be empty."""
        path, names = self._settings.models, self._names()
        if not names and self._settings.model_control == "none":
            raise RepositoryError(layout.nothing_to_serve(path))
        for sentence in layout.misplaced(path) if path.is_dir() else ():
            log.warning("%s", sentence)
        if self._settings.model_control != "explicit":
            return names
        for name in self._settings.load_models:
            if name not in names:
                raise BadModelError(f"{path} has no model '{name}' to load at startup.")
        return self._settings.load_models

    def _names(self) -> list[str]:
        return layout.list_names(self._settings.models)

    def _folder(self, name: str) -> Path:
        return self._settings.models / name

    def _entries(self, name: str) -> list[IndexEntry]:
        if name in self._loading and not self._registry.versions(name):
            return [IndexEntry(name, state="LOADING")]
        errors = self._results.get(name, LoadResult()).errors
        failed = {str(number or ""): reason for number, reason in errors.items()}
        entries = [IndexEntry(name, version, "UNAVAILABLE", reason) for version, reason in failed.items()]
        entries += [IndexEntry(name, str(version), "READY") for version in self._registry.versions(name)]
        retired = [str(version) for version in self._registry.retired(name) if str(version) not in failed]
        entries += [IndexEntry(name, version, "UNAVAILABLE", "unloaded") for version in retired]
        return sorted(entries, key=lambda entry: int(entry.version or 0)) or [IndexEntry(name)]

    def _require_explicit(self) -> None:
        control = self._settings.model_control
        if control != "explicit":
            raise UnavailableError(f"clients cannot load or unload models: the model control is {control}.")


def _require_models(results: Mapping[str, LoadResult]) -> None:
    """Raise BadModelError if there are results, but none has a loaded version."""
    if not results or any(result.models for result in results.values()):
        return
    errors = [next(iter(result.errors.values())) for result in results.values()]
    for name, error in zip(results, errors, strict=True):
        if len(errors) > 1:
            log.error("%s: %s", name, error)
    raise BadModelError(
        errors[0] if len(errors) == 1 else f"none of the {len(errors)} models can be served: {errors[0]}"
    )


def _load_error(error: Exception, name: str) -> str:
    """Return why a model cannot be loaded; an unexpected exception is logged with its traceback."""
    if isinstance(error, SetupError):
        return str(error)
    log.error("%s failed to load", name, exc_info=error)
    return f"{name} failed to load: {type(error).__name__}; see the server's log."


def _version_files(fingerprint: Fingerprint, version: int) -> Fingerprint:
    """Return the part of a model's fingerprint for one version: its own files and the shared ones."""
    return tuple(entry for entry in fingerprint if "/" not in entry[0] or entry[0].startswith(f"{version}/"))
