"""One version of a model, loaded, with a line before it and threads of its own."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Self

from protos import inference
from serve.batching.batcher import Batcher
from serve.batching.statistics import Statistics
from serve.devices.memory import check_fits
from serve.engine import classification, validation
from serve.engine.session import Session
from serve.engine.tap_sessions import Taps
from serve.engine.warmup import buckets, run_configured_warmup, warm_up
from serve.errors import UnavailableError
from serve.repository import model_config
from serve.repository.layer_index import read_layers
from serve.repository.repository import ModelFiles, Version
from serve.settings import ServerSettings
from serve.wire import datatypes
from serve.wire.tensors import Array, Request, Response, Tensor

log = logging.getLogger(__name__)
NO_CONFIG = inference.ModelConfig()
KINDS = {"cuda": inference.ModelInstanceGroup.KIND_GPU, "cpu": inference.ModelInstanceGroup.KIND_CPU}


class Model:
    """Answers requests for one version. `config` is complete; `signature` is what it says of tensors."""

    def __init__(self, files: ModelFiles, version: Version, session: Session, tap_sessions: int) -> None:
        self.name, self.version = files.name, version.number
        self.config = model_config.complete(files.config, files.name, session.inputs, session.outputs)
        count = model_config.instances(self.config)
        del self.config.instance_group[:]
        self.config.instance_group.add(name=files.name, count=count, kind=KINDS[session.device])
        self.signature = model_config.signature(self.config)
        self.layers = read_layers(version.path, session.metadata)
        self._labels = files.labels
        self._given = [each.name for each in session.outputs]
        self._taps = Taps(version.path, session, tap_sessions)
        self._buckets = buckets(session.device, self.signature.max_batch_size, model_config.preferred(self.config))
        self._batcher: Batcher[Session] | None = None
        self._begun, self._idle = 0, asyncio.Event()
        self.statistics = Statistics()

    @property
    def waiting(self) -> int:
        """How many requests stand in line."""
        return self._batcher.waiting if self._batcher else 0

    @classmethod
    def load(cls, files: ModelFiles, version: Version, settings: ServerSettings) -> Self:
        """Load one version.

        Raises:
            BadModelError: it cannot be served.
            ProviderError: the provider is cuda, and CUDA cannot run it.
        """
        check_fits(version.path)
        session = Session.open(version.path, settings.provider, model_config.instances(files.config or NO_CONFIG))
        model = cls(files, version, session, settings.tap_sessions)
        warm_up(session, model.signature, model._buckets, f"{model.name}, version {model.version},")
        run_configured_warmup(session, model.config, model.signature)
        log.info("%s, version %d, is loaded on %s", model.name, model.version, session.device)
        return model

    def start(self) -> None:
        """Take requests from now on, on the running event loop."""
        settings = replace(model_config.batch_settings(self.config), buckets=self._buckets)
        self._batcher = Batcher(self._run, settings, self.statistics, f"{self.name}/{self.version}")

    async def infer(self, request: Request) -> Response:
        """Answer a request for this version; it stays as long as it takes, also when its successor is there already.

        Raises:
            InvalidRequestError: the request does not fit the model.
            UnknownOutputError: the model has no wanted output or layer of that name.
            InferenceError: the model failed on it.
        """
        self._begun += 1
        try:
            return await self._answer(request)
        finally:
            self._begun -= 1
            if not self._begun:
                self._idle.set()

    async def _answer(self, request: Request) -> Response:
        arrays = validation.inputs(request, self.signature)
        values = validation.outputs(request, self.signature, self.layers)
        wanted = {name: count for name, count in request.classes.items() if count}
        for output in self.signature.outputs:
            if output.name in wanted:
                classification.check(output.name, output.datatype)
        results = await self._compute(request, arrays, values)
        outputs = (_tensor(name, results[value]) for name, value in values.items())
        told = tuple(self._classified(each, wanted[each.name]) if each.name in wanted else each for each in outputs)
        return Response(self.name, str(self.version), request.id, told)

    async def close(self) -> None:
        """Answer what has been begun, then end the threads."""
        while self._begun:
            self._idle.clear()
            await self._idle.wait()
        if self._batcher:
            await self._batcher.close()

    def _classified(self, tensor: Tensor, count: int) -> Tensor:
        labels = self._labels.get(tensor.name, ())
        return classification.classify(tensor, count, labels, batched=self.signature.max_batch_size > 0)

    async def _compute(
        self, request: Request, arrays: Mapping[str, Array], values: Mapping[str, str]
    ) -> Mapping[str, Array]:
        if self._batcher is None:
            raise UnavailableError(f"model '{self.name}' does not take requests yet.")
        layers = [name for name, value in values.items() if value not in self._given]
        largest = self.signature.max_batch_size
        return await self._batcher.submit(
            arrays,
            rows=len(next(iter(arrays.values()))) if largest else 1,
            plan=await self._taps.session(frozenset(values[name] for name in layers)),
            priority=request.priority,
            timeout_us=request.timeout_us,
            alone=not largest or not all(map(self.layers.shares_batches, layers)),
        )

    @staticmethod
    def _run(arrays: Mapping[str, Array], session: Session) -> Mapping[str, Array]:
        """Run one batch, in a thread of the model's own."""
        return session.run(arrays, [output.name for output in session.outputs])


def _tensor(name: str, array: Array) -> Tensor:
    return Tensor(name, datatypes.BY_NUMPY[array.dtype].name, array)
