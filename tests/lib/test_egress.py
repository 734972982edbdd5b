from __future__ import annotations

import pytest
from pytest_django import Settings

from apps.lib import egress

REFUSED = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.8", "192.168.1.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1",
    "::ffff:8.8.8.8", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001::1", "fc00::1", "fd12::1",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "not an address", "",
]  # fmt: skip
PERMITTED = ["8.8.8.8", "172.32.0.1", "100.128.0.1", "192.167.0.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.fixture(autouse=True)
def _nothing_allowed(settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""


@pytest.mark.parametrize("ip", REFUSED)
def test_an_address_that_is_not_public_is_refused(ip: str) -> None:
    assert not egress.is_permitted(ip, 443, host=ip)


@pytest.mark.parametrize("ip", PERMITTED)
def test_a_public_address_is_permitted(ip: str) -> None:
    assert egress.is_permitted(ip, 443, host=ip)


def test_a_network_is_allowed_with_all_its_addresses_also_mapped_ones(settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "10.0.0.0/8, fd00::/8"
    assert egress.is_permitted("10.9.9.9", 1)
    assert egress.is_permitted("::ffff:10.9.9.9", 1)
    assert egress.is_permitted("fd00::1", 1)
    assert not egress.is_permitted("192.168.0.1", 1)
    assert not egress.is_permitted("127.0.0.1", 1)


def test_an_address_with_a_port_is_allowed_at_that_port_only(settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.1:8000,[::1]:9000"
    assert egress.is_permitted("127.0.0.1", 8000, host="127.0.0.1")
    assert not egress.is_permitted("127.0.0.1", 8001, host="127.0.0.1")
    assert egress.is_permitted("::1", 9000)
    assert not egress.is_permitted("::1", 8000)


def test_a_host_is_allowed_by_its_name_only(settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "hr.internal,mail.internal:25"
    assert egress.is_permitted("10.0.0.5", 443, host="HR.internal.")
    assert not egress.is_permitted("10.0.0.5", 443, host="other.internal")
    assert not egress.is_permitted("10.0.0.5", 443, host="hr.internal.evil.example")
    assert egress.is_permitted("10.0.0.6", 25, host="mail.internal")
    assert not egress.is_permitted("10.0.0.6", 443, host="mail.internal")


@pytest.mark.parametrize(
    "entry", ["http://a.example", "a.example/path", "user@a.example", "10.0.0.0/99", "a.example?x"]
)
def test_what_is_neither_network_nor_host_is_named(entry: str) -> None:
    with pytest.raises(ValueError):
        egress.parse_allowance(f"10.0.0.0/8,{entry}")


def test_credentials_go_without_tls_to_named_hosts_only(settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8,hr.internal"
    for url in ("http://127.0.0.1:5/x", "http://localhost:5/x", "http://hr.internal/x"):
        assert egress.is_named(url)
    for url in ("http://8.8.8.8/", "http://public.example/", "http://10.0.0.1/", "http://hr.internal.evil.example/"):
        assert not egress.is_named(url)
