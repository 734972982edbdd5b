"""How much memory and time does the proxy need? One gigabyte each way through the real product, and events.

    DJANGO_SETTINGS_MODULE=config.settings JACKFIELD_ENV=test python -m tests.bench.proxy [--megabytes 1024] [--streams 50]

Everything runs on this machine and shares its cores: the service, the product, the client.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import django

django.setup()

from tests.acceptance.journey import connect_wayward, enable_wayward  # noqa: E402 - all of these need the apps
from tests.acceptance.test_proxy import MEGABYTE, MOST_GROWTH, File, Proxy, growth  # noqa: E402
from tests.bench.execute import cpu_seconds  # noqa: E402
from tests.peers.streaming import Streaming, pattern  # noqa: E402
from tests.peers.upstream import Upstream  # noqa: E402
from tests.product import Product  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--streams", type=int, default=50)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jackfield-bench-")))
        upstream, peer = stack.enter_context(Upstream()), stack.enter_context(Streaming())
        product = Product(folder / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
        stack.callback(product.close)
        product.start()
        enable_wayward(product, upstream)
        connect_wayward(product, "bench")
        enable_wayward(product, upstream, base_url=peer.url)
        run(Proxy(product, peer, "bench"), options.megabytes, options.streams)


def run(proxy: Proxy, megabytes: int, streams: int) -> None:
    size = megabytes * MEGABYTE
    for _ in range(20):
        proxy.call("GET", "hash")
    print(f"{megabytes} MiB each; {os.cpu_count()} cores shared by service, product and client\n")
    print(f"{'what':28}{'seconds':>9}{'MiB/s':>9}{'CPU s':>8}{'grew MiB':>10}")
    measure(proxy, "download", size, lambda: download(proxy, f"bytes?n={size}"))
    measure(proxy, "download, chunked", size, lambda: download(proxy, f"bytes?n={size}&chunked=1"))
    measure(proxy, "upload", size, lambda: proxy.call("PUT", "hash", data=File(size)).json()["size"])
    measure(proxy, "upload, chunked", size, lambda: proxy.call("PUT", "hash", data=pattern(0, size)).json()["size"])
    events(proxy, streams)


def measure(proxy: Proxy, what: str, size: int, transfer: Callable[[], int]) -> None:
    assert proxy.product.process is not None
    pid = proxy.product.process.pid
    before, started = cpu_seconds(pid), time.monotonic()
    with growth(proxy.product) as grown:
        moved = transfer()
    took = time.monotonic() - started
    assert moved == size, f"{moved} of {size} bytes"
    assert grown() < MOST_GROWTH, f"{what}: grew by {grown() / MEGABYTE:.0f} MiB"
    print(f"{what:28}{took:9.1f}{size / MEGABYTE / took:9.0f}{cpu_seconds(pid) - before:8.1f}{grown() / MEGABYTE:10.1f}",
          flush=True)  # fmt: skip


def download(proxy: Proxy, path: str) -> int:
    answer = proxy.call("GET", path, stream=True)
    return sum(len(piece) for piece in answer.iter_content(256 * 1024))


def events(proxy: Proxy, streams: int) -> None:
    """So many streams of events at once, and what an ordinary call takes meanwhile."""

    def lags() -> list[float]:
        answer = proxy.call("GET", "events?count=10&every=0.5", stream=True)
        lines = answer.iter_lines(chunk_size=1)
        return [time.time() - float(line[6:]) for line in lines if line.startswith(b"data: ")]

    with ThreadPoolExecutor(streams) as pool:
        running = [pool.submit(lags) for _ in range(streams)]
        time.sleep(1)
        calls = []
        for _ in range(50):
            started = time.monotonic()
            assert proxy.call("GET", "hash").status_code == 200
            calls.append(time.monotonic() - started)
        found = sorted(lag for one in running for lag in one.result())
    calls.sort()
    print(f"\n{streams} streams of events: lag p50 {found[len(found) // 2] * 1000:.1f} ms, p99 "
          f"{found[len(found) * 99 // 100] * 1000:.1f} ms; a call meanwhile p50 {calls[25] * 1000:.1f} ms, p98 "
          f"{calls[48] * 1000:.1f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
