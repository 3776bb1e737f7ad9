"""The server without a transport: which models there are, and what they answer."""

from collections.abc import Sequence

from serve.errors import InvalidRequestError, UnavailableError, UnknownModelError
from serve.model import Model
from serve.tensors import Request, Response


class Core:
    """Finds the model that a request is for. Transports convert, call this, and convert back."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, Model]] = {}
        self._loaded = self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether requests are answered: all models are loaded, and the server is not stopping."""
        return self._loaded and not self._stopping

    def add(self, models: Sequence[Model]) -> None:
        """Serve these models from now on, on the running event loop."""
        for model in models:
            model.start()
            self._models.setdefault(model.name, {})[model.version] = model
        self._loaded = True

    def model(self, name: str, version: str = "") -> Model:
        """Return a model; an empty version is the newest.

        Raises:
            UnknownModelError: there is no such model or version.
            InvalidRequestError: the version is not a number.
        """
        if version and not (version.isascii() and version.isdigit()):
            raise InvalidRequestError(f"a version is a number, such as 1; got '{version}'.")
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModelError(f"there is no model '{name}'.")
        number = int(version[:20]) if version else max(versions)  # the longest that a version can be, and more
        if number not in versions:
            has = ", ".join(map(str, self.versions(name)))
            raise UnknownModelError(f"model '{name}' has no version {version}; it has {has}.")
        return versions[number]

    def versions(self, name: str) -> list[int]:
        """Return the served versions of a model, ascending; none for an unknown one."""
        return sorted(self._models.get(name, {}))

    def models(self, name: str = "", version: str = "") -> list[Model]:
        """Return a model's versions, or the one asked for; without a name, all that are served.

        Raises:
            InvalidRequestError: there is no such model or version.
        """
        if not name:
            return [self._models[each][number] for each in sorted(self._models) for number in self.versions(each)]
        try:
            found = self.model(name, version)
        except UnknownModelError as error:
            raise InvalidRequestError(str(error)) from error
        return [found] if version else [self._models[name][number] for number in self.versions(name)]

    def is_ready(self, name: str, version: str) -> bool:
        """Whether a request for this model would be answered. Raises: InvalidRequestError."""
        try:
            self.model(name, version)
        except UnknownModelError:
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
        for versions in self._models.values():
            for model in versions.values():
                await model.close()
        self._models.clear()
