"""Faust gets the same security settings as the other clients."""

import ssl

import faust
import pytest

from streams.errors import StartError
from streams.workers.router.faust_app import credentials


def test_without_security_there_are_no_credentials() -> None:
    assert credentials({}) is None
    assert credentials({"security.protocol": "PLAINTEXT", "linger.ms": "5"}) is None


def test_tls_checks_the_brokers_certificate() -> None:
    found = credentials({"security.protocol": "SSL"})
    assert isinstance(found, faust.SSLCredentials)
    assert found.context.verify_mode == ssl.CERT_REQUIRED
    assert found.context.check_hostname


@pytest.mark.parametrize(("protocol", "encrypted"), [("SASL_SSL", True), ("sasl_plaintext", False)])
def test_sasl_carries_name_and_password(protocol: str, encrypted: bool) -> None:
    properties = {"security.protocol": protocol, "sasl.username": "u", "sasl.password": "p"}
    found = credentials(properties | {"sasl.mechanisms": "SCRAM-SHA-512"})
    assert isinstance(found, faust.SASLCredentials)
    assert (found.username, found.password, found.mechanism.value) == ("u", "p", "SCRAM-SHA-512")
    assert (found.ssl_context is not None) == encrypted


@pytest.mark.parametrize(
    "properties",
    [{"security.protocol": "kerberos"}, {"security.protocol": "sasl_ssl", "sasl.mechanism": "GSSAPI"}],
    ids=str,
)
def test_what_it_cannot_speak_is_said_at_the_start(properties: dict[str, str]) -> None:
    with pytest.raises(StartError, match="must be"):
        credentials(properties)
