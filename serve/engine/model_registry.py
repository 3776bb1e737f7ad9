"""Registry of the models in service, independent of any transport."""

import time
from collections.abc import Callable, Sequence

from serve.engine.model import Model
from serve.errors import InvalidRequestError, UnavailableError, UnknownModelError

VERSION_DIGITS = 20  # longer version strings are truncated, because int() rejects very long ones


class ModelRegistry:
    """The served versions of each model."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, Model]] = {}
        self._retired: dict[str, set[int]] = {}
        self._loaded = self._stopping = False
        self.generation = 0  # changes whenever `serving` may return another model
        self._on_swap: list[Callable[[], None]] = []

    @property
    def ready(self) -> bool:
        """Whether all initial models are loaded and the server is not stopping."""
        return self._loaded and not self._stopping

    def swap(self, name: str, models: Sequence[Model]) -> list[Model]:
        """Serve exactly these versions of a model from now on; return the versions that this replaces.

        The caller closes the returned versions; `Model.close` waits for their in-flight requests.
        """
        served = self._models.get(name, {})
        for model in models:
            if model not in served.values():
                model.start()
        replaced = [model for model in served.values() if model not in models]
        retired = {model.version for model in replaced}
        self._retired = {**self._retired, name: self._retired.get(name, set()) | retired}
        self._models = {**self._models, name: {model.version: model for model in models}}  # other threads read it
        self.generation += 1
        for function in self._on_swap:
            function()
        return replaced

    def on_swap(self, function: Callable[[], None]) -> None:
        """Call `function` whenever other models are served, so that nothing refers to those that were replaced."""
        self._on_swap.append(function)

    def open(self) -> None:
        """Become ready: all initial models are loaded."""
        self._loaded = True

    def model(self, name: str, version: str = "") -> Model:
        """Return a version of a model; an empty version is the newest one.

        Raises:
            UnknownModelError: There is no such model or version.
            UnavailableError: The model or version was served before, but is no longer.
            InvalidRequestError: The version is not a number.
        """
        if version and not (version.isascii() and version.isdigit()):
            raise InvalidRequestError(f"a version is a number, such as 1; got '{version}'.")
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModelError(f"there is no model '{name}'.")
        if not versions:
            raise UnavailableError(f"model '{name}' is not loaded.")
        number = int(version[:VERSION_DIGITS]) if version else max(versions)
        if number not in versions:
            served = ", ".join(map(str, self.versions(name)))
            is_retired = number in self._retired.get(name, ())
            error_type = UnavailableError if is_retired else UnknownModelError
            raise error_type(
                f"model '{name}' has no version {version}{' any more' if is_retired else ''}; it has {served}."
            )
        return versions[number]

    def serving(self, name: str, version: str) -> Model:
        """Return the version that runs a request now. Raises: RequestError, a subclass that names the cause."""
        if self._stopping:
            raise UnavailableError("the server is stopping.")
        return self.model(name, version)

    def versions(self, name: str) -> list[int]:
        """Return the served versions of a model, ascending; none for an unknown model."""
        return sorted(self._models.get(name, {}))

    def retired(self, name: str) -> list[int]:
        """Return the versions of a model that were served before, but are no longer, ascending."""
        return sorted(self._retired.get(name, set()) - set(self.versions(name)))

    def models(self, name: str = "", version: str = "") -> list[Model]:
        """Return the versions of a model, or only `version`; without a name, all versions of all models.

        Raises:
            InvalidRequestError: There is no such model or version.
        """
        if not name:
            return [self._models[served][number] for served in sorted(self._models) for number in self.versions(served)]
        try:
            model = self.model(name, version)
        except (UnknownModelError, UnavailableError) as error:
            raise InvalidRequestError(str(error)) from error
        return [model] if version else [self._models[name][number] for number in self.versions(name)]

    def is_ready(self, name: str, version: str) -> bool:
        """Return whether the model is served and the server is ready. Raises: InvalidRequestError."""
        try:
            self.model(name, version)
        except (UnknownModelError, UnavailableError):
            return False
        return self.ready

    def stop(self) -> None:
        """Reject all further requests."""
        self._stopping = True
        self.generation += 1

    def close(self, timeout_s: float) -> bool:
        """Finish the queued requests of all models; return False if that takes longer than `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        closed = [model.close(max(0.0, end_s - time.monotonic())) for model in self.models()]
        return all(closed)
