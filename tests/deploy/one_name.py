"""Stands for the name server of Docker, which gives the addresses of all containers that have one name.

A client takes an address that answers. Here, TCP connections to one port are passed on to the next server that answers.
"""

import asyncio
import threading
from contextlib import suppress

from waiting import HANG_SECONDS


class OneName:
    """Connections to `host:port`, each passed on to one of `hosts` at this port, in turn, until this process ends."""

    def __init__(self, host: str, port: int, hosts: list[str]) -> None:
        self._host, self._port, self._hosts = host, port, hosts
        self._listens = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True).start()
        assert self._listens.wait(HANG_SECONDS)

    async def _listen(self) -> None:
        async with await asyncio.start_server(self._pass_on, self._host, self._port) as server:
            self._listens.set()
            await server.serve_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._hosts.append(self._hosts.pop(0))
        for host in list(self._hosts):
            with suppress(OSError):
                there, back = await asyncio.open_connection(host, self._port)
                break
        else:
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()
    writer.close()
