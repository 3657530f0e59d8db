"""The proxy that stands for the network: it forwards, stops answering, and resets connections."""

import socket
import threading
from collections.abc import Iterator

import pytest
from proxy import Proxy


@pytest.fixture
def echo() -> Iterator[Proxy]:
    """A proxy to a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=send_back, args=(connection,), daemon=True).start()

        threading.Thread(target=answer, daemon=True).start()
        proxy = Proxy(server.getsockname()[1])
        yield proxy
        proxy.close()


def send_back(connection: socket.socket) -> None:
    with connection:
        while read := connection.recv(100):
            connection.sendall(read)


def test_what_is_sent_while_the_network_is_silent_arrives_when_it_is_back(echo: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        client.settimeout(0.3)
        echo.set("silent")
        client.sendall(b"hello")
        with pytest.raises(TimeoutError):
            client.recv(100)
        echo.set("open")
        client.settimeout(60)
        assert client.recv(100) == b"hello"


def test_a_reset_ends_old_and_new_connections_until_the_network_is_back(echo: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        echo.set("reset")
        assert not received(client)
        with socket.create_connection(("127.0.0.1", echo.port)) as other:
            assert not received(other)
    echo.set("open")
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        client.sendall(b"again")
        assert client.recv(100) == b"again"


def received(client: socket.socket) -> bytes:
    try:
        return client.recv(100)
    except ConnectionError:
        return b""
