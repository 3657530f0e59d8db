"""HTTP connections that close when they are idle.

uvicorn itself waits forever for a request, and for a client that does not read its answer.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

IDLE_SECONDS = 5.0
"""Time without a complete request, or without progress in reading the answer; detection takes up to twice as long."""


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 with the limit IDLE_SECONDS, for `uvicorn.Config(http=…)`."""

    _unread = 0
    _cycle: RequestResponseCycle | None = None
    """The request at the last check."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(IDLE_SECONDS, self._check)

    def _check(self) -> None:
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            return
        unread, before = self.transport.get_write_buffer_size(), self._unread
        idle = self.cycle is self._cycle and (self.cycle is None or self.cycle.response_complete)
        if (unread and unread == before) or (idle and not unread):
            self.transport.abort()
            return
        self._unread, self._cycle = unread, self.cycle
        self.loop.call_later(IDLE_SECONDS, self._check)
