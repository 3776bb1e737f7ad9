"""What gRPC itself logs, in our words where it is no fault."""

import logging

LOGGER = "grpc._cython.cygrpc"
NOT_SENT = "ExecuteBatchError"  # what gRPC raises where it sends an answer and nobody is there any more

log = logging.getLogger(__name__)


class DisconnectFilter(logging.Filter):
    """Says in a line that a client left before its answer was sent, where gRPC shows a traceback of its own.

    gRPC sends a handler's answer after the handler has ended, so no handler can catch what goes wrong then.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether gRPC's own record is shown: all others are."""
        kind = record.exc_info[0] if record.exc_info else None
        if kind is None or kind.__name__ != NOT_SENT:
            return True
        log.info("a client left before its answer was sent")
        return False


LEAVING = DisconnectFilter()


def install() -> None:
    """Let gRPC's records pass through it; doing it again changes nothing."""
    logging.getLogger(LOGGER).addFilter(LEAVING)
