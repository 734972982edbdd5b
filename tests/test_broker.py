"""The broker without a server."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from queue import Empty
from typing import Any

from kombu import Connection

from config import broker
from config.celery import app


def options(folder: Path) -> dict[str, Any]:
    (folder / "queue").mkdir(exist_ok=True)
    return {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "control_folder": str(folder / "control"),
    }


def test_celery_uses_the_transport_that_writes_messages_whole(tmp_path: Path) -> None:
    assert app.main == "jackfield"
    with Connection("filesystem://localhost", transport_options=options(tmp_path)) as connection:
        assert isinstance(connection.transport, broker.Transport)


def test_no_reader_ever_sees_half_a_message(tmp_path: Path) -> None:
    """Many are written while others read as fast as they can: each arrives once, and whole."""
    got: list[int] = []
    faults: list[BaseException] = []
    written = threading.Event()

    def read() -> None:
        with Connection("filesystem://localhost", transport_options=options(tmp_path)) as connection:
            channel = connection.default_channel
            while True:
                done = written.is_set()
                try:
                    got.append(channel._get("q")["number"])
                except Empty:
                    if done:
                        return
                except Exception as error:
                    faults.append(error)
                    return

    with Connection("filesystem://localhost", transport_options=options(tmp_path)) as connection:
        channel = connection.default_channel
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(600):
            channel._put("q", {"number": number, "text": "x" * 20_000})
        written.set()
        for reader in readers:
            reader.join(30)
    assert faults == []
    assert sorted(got) == list(range(600))
    assert os.listdir(tmp_path / "queue") == []
