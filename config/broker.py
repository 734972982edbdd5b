"""The broker that needs no server: kombu's files, but each message appears whole or not at all.

kombu opens a message's file under its final name and writes it then. A worker that looks in between reads an empty
message, and ends. Here it is written under another name, which no worker looks for, and renamed.
"""

from __future__ import annotations

import os
import uuid
from time import monotonic
from typing import Any

from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc] # kombu has no types
    """Raises `ChannelError` where the folder cannot be written."""

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:
        path = os.path.join(self.data_folder_out, f"{round(monotonic() * 1000)}_{uuid.uuid4()}.{queue}")
        try:
            with open(f"{path}.draft", "xb") as file:
                file.write(str_to_bytes(dumps(payload)))
            os.replace(f"{path}.draft", f"{path}.msg")
        except OSError as error:
            raise ChannelError(f"Cannot add {path}.msg") from error


class Transport(filesystem.Transport):  # type: ignore[misc]
    Channel = Channel


def register() -> None:
    """Lets ``filesystem://`` mean this transport."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
