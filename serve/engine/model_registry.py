"""The server without a transport: which models there are, and what they answer."""

from collections.abc import Sequence

from serve.engine.model import Model
from serve.errors import InvalidRequestError, UnavailableError, UnknownModelError
from serve.wire.tensors import Request, Response


class ModelRegistry:
    """Finds the model that a request is for. Transports convert, call this, and convert back."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, Model]] = {}
        self._retired: dict[str, set[int]] = {}
        self._loaded = self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether requests are answered: all models are loaded, and the server is not stopping."""
        return self._loaded and not self._stopping

    def swap(self, name: str, models: Sequence[Model]) -> list[Model]:
        """Serve these versions of a model from now on, and no others; returns those that are not served any more.

        Who is told to close a version that was swapped out waits until what it had begun is answered.
        """
        served = self._models.get(name, {})
        for model in models:
            if model not in served.values():
                model.start()
        gone = [model for model in served.values() if model not in models]
        self._retired.setdefault(name, set()).update(model.version for model in gone)
        self._models[name] = {model.version: model for model in models}
        return gone

    def open(self) -> None:
        """Be ready: all models that were to be loaded are."""
        self._loaded = True

    def model(self, name: str, version: str = "") -> Model:
        """Return a model; an empty version is the newest.

        Raises:
            UnknownModelError: there is no such model or version.
            UnavailableError: it was served before, and is not any more.
            InvalidRequestError: the version is not a number.
        """
        if version and not (version.isascii() and version.isdigit()):
            raise InvalidRequestError(f"a version is a number, such as 1; got '{version}'.")
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModelError(f"there is no model '{name}'.")
        if not versions:
            raise UnavailableError(f"model '{name}' is not loaded.")
        number = int(version[:20]) if version else max(versions)  # the longest that a version can be, and more
        if number not in versions:
            has = ", ".join(map(str, self.versions(name)))
            retired = number in self._retired.get(name, ())
            kind = UnavailableError if retired else UnknownModelError
            raise kind(f"model '{name}' has no version {version}{' any more' if retired else ''}; it has {has}.")
        return versions[number]

    def versions(self, name: str) -> list[int]:
        """Return the served versions of a model, ascending; none for an unknown one."""
        return sorted(self._models.get(name, {}))

    def retired(self, name: str) -> list[int]:
        """Return the versions of a model that were served, and are not any more, ascending."""
        return sorted(self._retired.get(name, set()) - set(self.versions(name)))

    def models(self, name: str = "", version: str = "") -> list[Model]:
        """Return a model's versions, or the one asked for; without a name, all that are served.

        Raises:
            InvalidRequestError: there is no such model or version.
        """
        if not name:
            return [self._models[each][number] for each in sorted(self._models) for number in self.versions(each)]
        try:
            found = self.model(name, version)
        except (UnknownModelError, UnavailableError) as error:
            raise InvalidRequestError(str(error)) from error
        return [found] if version else [self._models[name][number] for number in self.versions(name)]

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a request for this model would be answered. Raises: InvalidRequestError."""
        try:
            self.model(name, version)
        except (UnknownModelError, UnavailableError):
            return False
        return self.ready

    async def infer(self, request: Request) -> Response:
        """Answer a request. Raises: RequestError, one of its leaves by what is wrong."""
        if self._stopping:
            raise UnavailableError("the server is stopping.")
        return await self.model(request.model, request.version).infer(request)

    def stop(self) -> None:
        """Begin no further request."""
        self._stopping = True

    async def close(self) -> None:
        """Answer what waits, and let the models go."""
        for model in self.models():
            await model.close()
        self._models.clear()
