"""Servers that end with their test, and a client that waits a millisecond before it asks again."""

import openai
import pytest
from fake_server import FakeServer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)


@pytest.fixture
def serve():
    servers = []

    def start(*replies):
        servers.append(FakeServer(*replies))
        return servers[-1]

    yield start
    for fake in servers:
        fake.server.shutdown()
        fake.server.server_close()
