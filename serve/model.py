"""One version of a model, loaded, with a thread of its own."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from protos import inference
from serve import model_config, validation
from serve.config import Provider
from serve.repository import ModelFiles, Version
from serve.session import Session
from serve.tensors import Request, Response, Tensor

log = logging.getLogger(__name__)
KINDS = {"cuda": inference.ModelInstanceGroup.KIND_GPU, "cpu": inference.ModelInstanceGroup.KIND_CPU}


class Model:
    """Answers requests for one version. `config` is complete; `signature` is what it says of tensors."""

    def __init__(self, files: ModelFiles, version: Version, session: Session) -> None:
        self.name, self.version = files.name, version.number
        self.config = model_config.complete(files.config, files.name, session.inputs, session.outputs)
        del self.config.instance_group[:]
        self.config.instance_group.add(name=files.name, count=1, kind=KINDS[session.device])
        self.signature = model_config.signature(self.config)
        self._datatypes = {each.name: each.datatype for each in self.signature.outputs}
        self._session = session
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{self.name}/{self.version}")

    @classmethod
    def load(cls, files: ModelFiles, version: Version, provider: Provider) -> Self:
        """Load one version.

        Raises:
            BadModelError: it cannot be served.
            ProviderError: `provider` is cuda, and CUDA cannot run it.
        """
        session = Session.open(version.path, provider)
        model = cls(files, version, session)
        log.info("%s, version %d, is loaded on %s", model.name, model.version, session.device)
        return model

    async def infer(self, request: Request) -> Response:
        """Answer a request for this version.

        Raises:
            InvalidRequestError: the request does not fit the model.
            UnknownOutputError: the model does not have a wanted output.
            InferenceError: the model failed on it.
        """
        arrays = validation.inputs(request, self.signature)
        names = validation.outputs(request, self.signature)
        loop = asyncio.get_running_loop()
        values = await loop.run_in_executor(self._thread, self._session.run, arrays, names)
        outputs = tuple(Tensor(name, self._datatypes[name], values[name]) for name in names)
        return Response(self.name, str(self.version), request.id, outputs)

    def close(self) -> None:
        """Wait for the running request, then end the thread."""
        self._thread.shutdown()


def load_all(found: Sequence[ModelFiles], provider: Provider) -> list[Model]:
    """Load every selected version of every model. Raises: BadModelError, ProviderError."""
    return [Model.load(files, version, provider) for files in found for version in files.versions]
