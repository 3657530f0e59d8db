"""Connections over HTTP that end when nothing happens on them: uvicorn itself waits for a request, and for a client
that does not read its answer, for ever."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

IDLE_SECONDS = 5.0
"""Without a whole request, or without a byte of the answer taken; at most twice as long until it is seen."""


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 for `uvicorn.Config(http=…)`."""

    _unread = 0
    _cycle: RequestResponseCycle | None = None
    """The request of the last look."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(IDLE_SECONDS, self._look)

    def _look(self) -> None:
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            return
        unread, before = self.transport.get_write_buffer_size(), self._unread
        idle = self.cycle is self._cycle and (self.cycle is None or self.cycle.response_complete)
        if (unread and unread == before) or (idle and not unread):
            self.transport.abort()
            return
        self._unread, self._cycle = unread, self.cycle
        self.loop.call_later(IDLE_SECONDS, self._look)
