"""Calls through a proxy and within a time: both addresses judged, nothing of one proxy's used for another, no password told."""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pytest_django import Settings

from apps.lib import http
from apps.lib.errors import AddressRefused, ProxyFailed, TimedOut, Unreachable
from apps.lib.http import Outgoing, bounded, check_proxy, json_of, send
from apps.lib.stream import StreamOutgoing, open_stream
from tests.peers.forward import ForwardProxy
from tests.peers.upstream import Upstream

PUBLIC = "93.184.215.14"  # an address of the public internet, to which no packet of these tests goes
Start = Callable[..., ForwardProxy]


@pytest.fixture(autouse=True)
def up(upstream: Upstream, settings: Settings) -> Upstream:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    return upstream


def port_of(upstream: Upstream) -> int:
    return int(upstream.url.rpartition(":")[2])


@pytest.fixture
def start() -> Iterator[Start]:
    begun: list[ForwardProxy] = []

    def begin(*args: object, **options: object) -> ForwardProxy:
        begun.append(ForwardProxy(*args, **options))  # type: ignore[arg-type]
        return begun[-1]

    yield begin
    for proxy in begun:
        proxy.close()


def with_login(proxy: ForwardProxy, login: str) -> str:
    return proxy.url.replace("://", f"://{login}@")


# -- A server with TLS ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for secure.test and 127.0.0.1 that is its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secure.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("secure.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def context(pem: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setattr(certifi, "where", lambda: str(pem))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pem)
    return made


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"hello {self.headers['Authorization']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def secure(context: ssl.SSLContext) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names, and the addresses that they resolve to here; the system's resolver for all others."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: object, **options: object) -> object:
        if host in known:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in known[host]]
        return real(host, port, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


# -- Through a proxy -----------------------------------------------------------------------------------------------------
def test_a_plain_call_goes_through_the_proxy_by_its_whole_url(up: Upstream, start: Start) -> None:
    proxy = start(user="jack", password="s3cret:pass")
    with bounded(proxy=with_login(proxy, "jack:s3cret%3Apass")):
        answer = send(Outgoing("POST", f"{up.url}/echo/a?b=c", {"Authorization": "Bearer t"}, b"body"))
    assert proxy.seen == [f"POST {up.url}/echo/a?b=c HTTP/1.1"]
    assert json_of(answer)["body"] == "body"
    assert json_of(answer)["headers"]["authorization"] == "Bearer t"
    assert "proxy-authorization" not in json_of(answer)["headers"]


def test_a_call_with_tls_goes_through_a_tunnel_that_sees_none_of_its_headers(secure: int, start: Start) -> None:
    proxy = start(user="jack", password="pass")
    with bounded(proxy=with_login(proxy, "jack:pass")):
        answer = send(Outgoing("GET", f"https://127.0.0.1:{secure}/", {"Authorization": "Bearer token"}))
    assert answer.text == "hello Bearer token"
    assert answer.header("X-Of") == ""
    assert proxy.seen == [f"CONNECT 127.0.0.1:{secure} HTTP/1.1"]
    assert "Bearer token" not in proxy.heads[0]


def test_a_proxy_may_itself_speak_tls(secure: int, context: ssl.SSLContext, start: Start, up: Upstream) -> None:
    proxy = start(tls=context)
    with bounded(proxy=proxy.url):
        assert send(Outgoing("GET", f"{up.url}/echo")).status == 200
        assert send(Outgoing("GET", f"https://127.0.0.1:{secure}/")).status == 200
    assert [line.split()[0] for line in proxy.seen] == ["GET", "CONNECT"]


def test_outside_of_the_block_nothing_goes_through_the_proxy(up: Upstream, start: Start) -> None:
    proxy = start()
    with bounded(proxy=proxy.url):
        send(Outgoing("GET", f"{up.url}/echo"))
    send(Outgoing("GET", f"{up.url}/echo"))
    with bounded(5):
        send(Outgoing("GET", f"{up.url}/echo"))
    assert len(proxy.seen) == 1


def test_the_inner_proxy_takes_the_place_of_the_outer_and_a_bound_of_time_keeps_it(up: Upstream, start: Start) -> None:
    outer, inner = start(), start()
    with bounded(proxy=outer.url):
        with bounded(5, proxy=inner.url):
            send(Outgoing("GET", f"{up.url}/echo"))
        with bounded(5):
            send(Outgoing("GET", f"{up.url}/echo"))
    assert (len(outer.seen), len(inner.seen)) == (1, 1)


def test_a_redirect_goes_through_the_proxy_and_is_judged_again(up: Upstream, start: Start, settings: Settings) -> None:
    proxy = start()
    with bounded(proxy=proxy.url):
        assert send(Outgoing("GET", f"{up.url}/redirect?to={up.url}/echo")).status == 200
        assert len(proxy.seen) == 2
        with pytest.raises(AddressRefused):
            send(Outgoing("GET", f"{up.url}/redirect?to=http://169.254.169.254/latest/meta-data"))
    assert len(proxy.seen) == 3
    assert not any("169.254" in line for line in (line.split()[1].partition("?")[0] for line in proxy.seen))


# -- Both addresses are judged -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://2130706433:{port}/",
     "http://0x7f.1:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://10.0.0.1/", "https://169.254.169.254/"],
)  # fmt: skip
def test_a_private_target_is_refused_before_the_proxy_hears_of_it(
    target: str, up: Upstream, start: Start, settings: Settings
) -> None:
    proxy = start()
    settings.JACKFIELD_EGRESS_ALLOW = f"127.0.0.1:{proxy.port}"
    with bounded(proxy=proxy.url), pytest.raises(AddressRefused):
        send(Outgoing("GET", target.format(port=port_of(up))))
    assert proxy.connections == 0


def test_a_name_with_one_private_address_among_others_is_refused(
    start: Start, settings: Settings, names: dict[str, list[str]]
) -> None:
    proxy = start()
    settings.JACKFIELD_EGRESS_ALLOW = f"127.0.0.1:{proxy.port}"
    names["both.test"] = [PUBLIC, "10.0.0.1"]
    with bounded(proxy=proxy.url), pytest.raises(AddressRefused):
        send(Outgoing("GET", "http://both.test/"))
    assert proxy.connections == 0


def test_a_public_target_is_asked_for_by_its_name(
    up: Upstream, start: Start, settings: Settings, names: dict[str, list[str]]
) -> None:
    proxy = start({("public.test", 80): port_of(up)})
    settings.JACKFIELD_EGRESS_ALLOW = f"127.0.0.1:{proxy.port}"
    names["public.test"] = [PUBLIC]
    with bounded(proxy=proxy.url):
        assert send(Outgoing("GET", "http://public.test/echo")).status == 200
    assert proxy.seen == ["GET http://public.test/echo HTTP/1.1"]


def test_a_target_that_the_operator_names_need_not_resolve_here(up: Upstream, start: Start, settings: Settings) -> None:
    proxy = start({("hr.invalid", 80): port_of(up)})
    settings.JACKFIELD_EGRESS_ALLOW = f"127.0.0.1:{proxy.port},hr.invalid"
    with bounded(proxy=proxy.url):
        assert send(Outgoing("GET", "http://hr.invalid/echo")).status == 200


def test_a_private_proxy_is_refused_at_the_socket(
    start: Start, settings: Settings, names: dict[str, list[str]]
) -> None:
    proxy = start()
    settings.JACKFIELD_EGRESS_ALLOW = "public.test"  # what is allowed of the target is not allowed of the proxy
    names["public.test"] = [PUBLIC]
    for url in (proxy.url, proxy.url.replace("127.0.0.1", "localhost"), proxy.url.replace("127.0.0.1", "0x7f.1")):
        with bounded(proxy=url), pytest.raises(AddressRefused, match="proxy"):
            send(Outgoing("GET", "http://public.test/"))
        with bounded(proxy=url), pytest.raises(AddressRefused, match="proxy"):
            open_stream(StreamOutgoing("GET", "http://public.test/"))
    assert proxy.connections == 0


# -- What goes wrong -----------------------------------------------------------------------------------------------------
def test_a_password_is_in_no_error(up: Upstream, secure: int, start: Start) -> None:
    proxy = start(user="jack", password="right")
    closed = socket.create_server(("127.0.0.1", 0))
    nobody = f"http://jack:hunter2@127.0.0.1:{closed.getsockname()[1]}"
    closed.close()
    refusing = with_login(proxy, "jack:hunter2")
    for url in (refusing, nobody, "http://jack:hunter2@nobody.invalid:3128"):
        for target in (f"{up.url}/echo", f"https://127.0.0.1:{secure}/"):
            for call in (
                lambda target=target: send(Outgoing("GET", target)),
                lambda target=target: open_stream(StreamOutgoing("GET", target)),
            ):
                with bounded(proxy=url), pytest.raises(ProxyFailed) as caught:
                    call()
                assert "hunter2" not in repr(
                    (caught.value.text, caught.value.advice, caught.value.details, http.bounds())
                )
    with bounded(proxy=refusing):
        assert "hunter2" not in repr(http.bounds())
    assert up.count("/echo") == 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "403"),
        (b"HTTP/1.1 407 Who\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n", "password"),
        (b"SSH-2.0-OpenSSH\r\n", "proxy"),
    ],
    ids=["forbidden", "unknown", "no-proxy"],
)
def test_a_proxy_that_opens_no_tunnel_is_named_as_what_failed(
    answer: bytes, said: str, secure: int, start: Start
) -> None:
    proxy = start(answer=answer)
    with bounded(proxy=proxy.url), pytest.raises(ProxyFailed, match=said):
        send(Outgoing("GET", f"https://127.0.0.1:{secure}/"))


def test_a_target_whose_name_does_not_resolve_is_unreachable(start: Start) -> None:
    proxy = start()
    with bounded(proxy=proxy.url), pytest.raises(Unreachable, match="does not resolve"):
        send(Outgoing("GET", "http://nobody.invalid/"))
    assert proxy.connections == 0


BAD = [
    "",
    "proxy",
    "socks5://u:hunter2@h:1",
    "http://",
    "http://u:hunter2@",
    "http://u:hunter2@h:99999",
    "http://u:hunter2@h:x",
    "http://u:hunter2@h/path",
    "http://u:hunter2@h:1?q",
    "http://u:hunter2@h:1#f",
    "http://u:hun\nter2@h:1",
    "http://u:hunter2%0d%0aX:y@h:1",
    "http://u:hunter2@h h:1",
    "ftp://u:hunter2@h:1",
    "http://u:hunter2@h%2e:1",
    "http://u:hunter2\\@h:1",
    "http://u:hunter2@h:0",
    "http://[::1",
    "http://u:%ff@h:1",
    "http://u:" + "a" * 3000 + "@h:1",
    "http://u:hunter2@h\x00:1",
    "http://u:p\ud800@h:1",
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_no_proxy_is_refused_without_being_repeated(number: int) -> None:
    fault = check_proxy(BAD[number])
    assert fault is not None
    assert "hunter2" not in fault
    if BAD[number]:
        with pytest.raises(AddressRefused) as caught, bounded(proxy=BAD[number]):
            raise AssertionError("the block was entered")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_good"),
    [
        ("http://user:password@proxy.example:3128", True),
        ("https://proxy.example", True),
        ("http://proxy.example:8080/", True),
        (f"http://{PUBLIC}:3128", True),
        ("http://10.0.0.1:3128", False),
        ("http://[fe80::1]:3128", False),
        ("http://[::1]:3128", False),
        ("http://127.0.0.1:3128", True),
    ],
)
def test_a_proxy_is_checked_as_it_is_given(url: str, is_good: bool) -> None:
    assert (check_proxy(url) is None) is is_good


# -- Nothing of one for another ------------------------------------------------------------------------------------------
def test_a_tunnel_is_used_again_but_never_by_another_user_of_the_proxy(secure: int, start: Start) -> None:
    proxy = start()
    for login in ("ann:a", "ann:a", "bob:b", "ann:a", "bob:c"):
        with bounded(proxy=with_login(proxy, login)):
            assert send(Outgoing("GET", f"https://127.0.0.1:{secure}/", safe=True)).status == 200
    assert proxy.connections == 3
    send(Outgoing("GET", f"https://127.0.0.1:{secure}/", safe=True))
    assert proxy.connections == 3


def test_handles_of_many_proxies_are_bounded(up: Upstream, start: Start) -> None:
    proxy = start()
    for number in range(3 * http.MOST_HANDLES):
        with bounded(proxy=with_login(proxy, f"user{number}")):
            send(Outgoing("GET", f"{up.url}/echo"))
    assert len(http._handles._proxied) < http.MOST_HANDLES


# -- Streams -------------------------------------------------------------------------------------------------------------
def test_a_stream_goes_through_the_proxy_too(up: Upstream, secure: int, start: Start) -> None:
    proxy = start(user="jack", password="pass")
    with bounded(proxy=with_login(proxy, "jack:pass")):
        plain = open_stream(StreamOutgoing("POST", f"{up.url}/echo/%7e?a", body=b"sent"))
        assert b'"sent"' in b"".join(plain.chunks())
        tunnelled = open_stream(StreamOutgoing("GET", f"https://127.0.0.1:{secure}/x"))
    assert b"".join(tunnelled.chunks()) == b"hello None"
    assert proxy.seen == [f"POST {up.url}/echo/%7e?a HTTP/1.1", f"CONNECT 127.0.0.1:{secure} HTTP/1.1"]
    assert "x-of" not in {name.lower() for name, _ in tunnelled.headers}


def test_a_streams_private_target_is_refused(up: Upstream, start: Start, settings: Settings) -> None:
    proxy = start()
    settings.JACKFIELD_EGRESS_ALLOW = f"127.0.0.1:{proxy.port}"
    with bounded(proxy=proxy.url), pytest.raises(AddressRefused):
        open_stream(StreamOutgoing("GET", f"{up.url}/echo"))
    assert proxy.connections == 0


# -- Time ----------------------------------------------------------------------------------------------------------------
def took(call: Callable[[], object]) -> float:
    started = time.monotonic()
    with pytest.raises(TimedOut):
        call()
    return time.monotonic() - started


def test_every_call_ends_within_the_time_of_all(up: Upstream) -> None:
    with bounded(0.6):
        assert took(lambda: send(Outgoing("GET", f"{up.url}/hang"))) < 3
        time.sleep(0.01)
        assert took(lambda: send(Outgoing("GET", f"{up.url}/echo"))) < 3
    assert up.count("/echo") == 0
    assert send(Outgoing("GET", f"{up.url}/echo")).status == 200


def test_an_inner_time_can_only_be_shorter(up: Upstream) -> None:
    with bounded(0.3), bounded(60):
        assert took(lambda: send(Outgoing("GET", f"{up.url}/hang"))) < 3
    with bounded(60):
        with bounded(0.3):
            assert took(lambda: send(Outgoing("GET", f"{up.url}/hang"))) < 3
        assert send(Outgoing("GET", f"{up.url}/echo")).status == 200


def test_a_proxy_that_hangs_is_not_waited_for_longer(up: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, bounded(0.5, f"http://127.0.0.1:{silent.getsockname()[1]}"):
        assert took(lambda: send(Outgoing("GET", f"{up.url}/echo"))) < 3


def test_a_resolver_that_hangs_is_not_waited_for_longer(
    up: Upstream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: release.wait(20) and [])
    with bounded(0.5, start().url):
        assert took(lambda: send(Outgoing("GET", "http://slow.test/"))) < 3
    release.set()


@pytest.fixture
def dripping() -> Iterator[str]:
    """The URL of an answer that goes on and on, a little at a time."""
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not over.wait(0.02):
                connection.sendall(b"drop")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/"
    over.set()
    server.close()
    thread.join(5)


def test_a_stream_ends_within_the_time_also_while_it_flows(up: Upstream, dripping: str) -> None:
    def read() -> None:
        with bounded(0.5):
            stream = open_stream(StreamOutgoing("GET", dripping))
        assert len(b"".join(stream.chunks())) > 0

    assert took(read) < 5
    with bounded(0.5):
        assert took(lambda: open_stream(StreamOutgoing("GET", f"{up.url}/hang"))) < 3


def test_a_thread_has_bounds_of_its_own(up: Upstream, start: Start) -> None:
    proxy = start()
    with bounded(proxy=proxy.url):
        copied = contextvars.copy_context()
        for run in (
            lambda: send(Outgoing("GET", f"{up.url}/echo")),
            lambda: copied.run(send, Outgoing("GET", f"{up.url}/echo")),
        ):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    assert len(proxy.seen) == 1


def test_bounds_end_with_the_block_also_by_an_error() -> None:
    with pytest.raises(ZeroDivisionError), bounded(1, f"http://{PUBLIC}:1"):
        raise ZeroDivisionError
    assert http.bounds() == http.Bounds()
