"""Takes requests from the frontends to the models' queues, and runs the batches that are due.

A frontend calls `accept` with all calls that it has received since its last call, so that they may share a batch. Most
calls repeat a header that was seen before: its plan says which arrays the message contains, where they go and how the
response is written, so that nothing but the tensors is read. All other calls are parsed by protobuf and checked; if the
same message may come again, a plan is kept.

Work that takes long runs in threads of its own: converting long lists of typed elements, and building a session for
layers that no client has requested before.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from protos import inference
from serve.batching.batcher import Batcher
from serve.batching.queue import QueuedRequest, RequestQueue
from serve.engine import validation
from serve.engine.call import Call
from serve.engine.model import Model, ModelRequest
from serve.engine.model_registry import ModelRegistry
from serve.engine.reply import CallReply
from serve.engine.session import Session
from serve.errors import UnavailableError
from serve.shared_memory.regions import Regions
from serve.wire import codec, datatypes
from serve.wire.frames import id_field
from serve.wire.scan import RequestParts, split_request
from serve.wire.tensors import Array

MAX_PLANS = 1024
MAX_INLINE_BYTES = 2**16  # larger messages without a plan are parsed in a thread of their own
MAX_RELOADS = 3
CONVERSION_THREADS, BUILD_THREADS = 2, 4
Batchers = set[Batcher[Session]]


class Plan:
    """How to run a message with a known header, as long as the same models are served.

    Args:
        generation: The registry's when the plan was made.
        model: The model that runs the message.
        queue: The queue of such requests; None if it may differ from call to call.
        request: A request with the same header, which was checked.
    """

    __slots__ = ("_inputs", "generation", "model", "queue", "request")

    def __init__(
        self, generation: int, model: Model, queue: RequestQueue[Session] | None, request: ModelRequest
    ) -> None:
        self.generation, self.model, self.queue = generation, model, queue
        self._inputs = [(n, a.dtype, a.shape, a.size, a.nbytes) for n, a in request.inputs.items()]
        self.request = replace(request, inputs={})

    def inputs(self, data: bytes, parts: RequestParts) -> dict[str, Array] | None:
        """Return the arrays of a message, as views of it; None if its raw data does not fit the header."""
        if len(parts.raw) != len(self._inputs):
            return None
        arrays: dict[str, Array] = {}
        for (name, dtype, shape, count, size), (start, end) in zip(self._inputs, parts.raw, strict=True):
            if end - start != size:
                return None
            arrays[name] = np.frombuffer(data, dtype, count, start).reshape(shape)
        return arrays


class Receiver:
    """Accepts calls from any thread."""

    def __init__(self, registry: ModelRegistry, regions: Regions) -> None:
        self._registry, self._regions = registry, regions
        self._plans: dict[bytes, Plan] = {}
        self._conversions = ThreadPoolExecutor(CONVERSION_THREADS, "conversion")
        self._builds = ThreadPoolExecutor(BUILD_THREADS, "build")
        registry.on_swap(self._plans.clear)

    def accept(self, calls: Iterable[Call]) -> None:
        """Queue calls, then run the batches that are due. Never raises; an error is sent to its call."""
        batchers: Batchers = set()
        for call in calls:
            try:
                self._accept_one(call, batchers)
            except Exception as error:  # noqa: BLE001  an error of one call must not affect others
                call.fail(error)
        for batcher in batchers:
            batcher.run_due()

    def close(self) -> None:
        """Drop the conversions and builds that have not started."""
        self._conversions.shutdown(wait=False, cancel_futures=True)
        self._builds.shutdown(wait=False, cancel_futures=True)

    def _accept_one(self, call: Call, batchers: Batchers) -> None:
        parts = split_request(call.data)
        plan = self._plans.get(parts.header) if parts else None
        if parts and plan and self._accept_planned(call, plan, parts, batchers):
            return
        if len(call.data) > MAX_INLINE_BYTES:
            self._conversions.submit(self._accept_in_thread, call, parts)
        else:
            self._accept_message(call, parts, batchers)

    def _accept_planned(self, call: Call, plan: Plan, parts: RequestParts, batchers: Batchers) -> bool:
        """Queue a call by its plan; return False if it must be parsed instead."""
        if plan.generation != self._registry.generation:
            return False
        inputs = plan.inputs(call.data, parts)
        queue = plan.queue if plan.queue is not None or inputs is None else _queue(plan.model, plan.request, inputs)
        return (
            inputs is not None
            and queue is not None
            and _enqueue(call, plan.model, queue, plan.request, inputs, parts.id, batchers)
        )

    def _accept_in_thread(self, call: Call, parts: RequestParts | None) -> None:
        """Parse and queue a call, in a thread of the receiver."""
        batchers: Batchers = set()
        try:
            self._accept_message(call, parts, batchers)
        except Exception as error:  # noqa: BLE001  as above
            call.fail(error)
        for batcher in batchers:
            batcher.run_due()

    def _accept_message(self, call: Call, parts: RequestParts | None, batchers: Batchers) -> None:
        """Parse and check a message, and queue it on the model that serves it now, or first build its session."""
        message = inference.ModelInferRequest.FromString(call.data)
        for _ in range(MAX_RELOADS):
            generation = self._registry.generation
            model = self._registry.serving(message.model_name, message.model_version)
            # Errors are reported in this order: an unknown model, a wrong name or datatype, wrong data.
            validation.check_headers(message.inputs, model.signature)
            request = codec.request_from_message(message, self._regions)
            checked = model.read(request, codec.output_placements(message, self._regions))
            queue = _queue(model, checked, checked.inputs)
            if queue is None:
                self._builds.submit(self._build_and_accept, call, model, checked, id_field(request.id))
            elif not _enqueue(call, model, queue, checked, checked.inputs, id_field(request.id), batchers):
                continue  # the model was replaced in the meantime
            if parts and _is_repeatable(message, checked):
                self._remember(parts.header, Plan(generation, model, None if checked.taps else queue, checked))
            return
        raise UnavailableError(f"model '{message.model_name}' is being reloaded; send the request again.")

    def _build_and_accept(self, call: Call, model: Model, request: ModelRequest, request_id: bytes) -> None:
        """Build the session that a request needs, then queue the request, in a thread of the receiver."""
        batchers: Batchers = set()
        try:
            if call.is_cancelled:
                return
            session = model.build_session(request.taps)
            queue = model.batcher.queue(request.inputs, session, alone=request.alone)
            if not _enqueue(call, model, queue, request, request.inputs, request_id, batchers):
                raise UnavailableError(f"model '{model.name}' was replaced; send the request again.")
        except Exception as error:  # noqa: BLE001  as above
            call.fail(error)
        for batcher in batchers:
            batcher.run_due()

    def _remember(self, header: bytes, plan: Plan) -> None:
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[header] = plan


def _queue(model: Model, request: ModelRequest, inputs: Mapping[str, Array]) -> RequestQueue[Session] | None:
    """Return the queue of a request; None if the session that it needs must be built first."""
    session = model.session(request.taps)
    return None if session is None else model.batcher.queue(inputs, session, alone=request.alone)


def _enqueue(
    call: Call,
    model: Model,
    queue: RequestQueue[Session],
    request: ModelRequest,
    inputs: Mapping[str, Array],
    request_id: bytes,
    batchers: Batchers,
) -> bool:
    """Queue a call, and add the model's batcher to `batchers`; return False if the model is closed."""
    batcher = model.batcher
    queued = QueuedRequest(inputs, request.rows, CallReply(call, request.encoder, request_id))
    if not batcher.add(queue, queued, priority=request.priority, timeout_us=request.timeout_us):
        return False
    batchers.add(batcher)
    call.data = b""
    call.on_cancel(lambda: batcher.cancel(queued))
    return True


def _is_repeatable(message: inference.ModelInferRequest, checked: ModelRequest) -> bool:
    """Return whether messages with the same header differ in nothing but their id and the bytes of their tensors."""
    return (
        len(message.raw_input_contents) == len(message.inputs)
        and not any(tensor.parameters or tensor.datatype == datatypes.BYTES.name for tensor in message.inputs)
        and all(array.size for array in checked.inputs.values())
        and not checked.encoder.has_placements
    )
