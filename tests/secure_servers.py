"""Servers with certificates, passwords and access rules, for the tests: what an operator would set up."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from streams.local.kafka import Listener

ADMIN = "admin"


@dataclass(frozen=True)
class Certificates:
    """PEM files of one authority, a server of 127.0.0.1, and a client."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @property
    def server_chain(self) -> Path:
        """Key and certificates in one file, as Kafka wants a PEM key store."""
        return self.server.with_name("server-chain.pem")


def make_certificates(folder: Path) -> Certificates:
    """Valid for two days; by the `openssl` program."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key = folder / "authority.key"
    made = Certificates(*(folder / name for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")))
    _openssl(*_key(authority_key), "-x509", "-days", "2", "-subj", "/CN=test authority", "-out", str(made.authority))
    extensions = folder / "san.cnf"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name, key, certificate in (
        ("localhost", made.server_key, made.server),
        ("client", made.client_key, made.client),
    ):
        request = certificate.with_suffix(".csr")
        _openssl(*_key(key), "-subj", f"/CN={name}", "-out", str(request))
        _openssl(
            *("x509", "-req", "-in", str(request), "-out", str(certificate), "-days", "2", "-CAcreateserial"),
            *("-CA", str(made.authority), "-CAkey", str(authority_key), "-extfile", str(extensions)),
        )
    made.server_chain.write_text(made.server_key.read_text() + made.server.read_text() + made.authority.read_text())
    return made


def _key(path: Path) -> list[str]:
    return ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def tls_listener(certificates: Certificates) -> Listener:
    """Clients are known by their certificates, and must have one."""
    return Listener(
        protocol="SSL",
        server=_server_tls(certificates) | {"ssl.client.auth": "required", "inter.broker.listener.name": "SSL"},
        client={
            "security.protocol": "SSL",
            "ssl.ca.location": str(certificates.authority),
            "ssl.certificate.location": str(certificates.client),
            "ssl.key.location": str(certificates.client_key),
        },
    )


def sasl_listener(certificates: Certificates, passwords: dict[str, str]) -> Listener:
    """TLS, SCRAM-SHA-512 passwords, and nobody but the admin may do anything that no rule allows."""
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    return Listener(
        protocol="SASL_SSL",
        server=_server_tls(certificates)
        | {
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                f'{login} username="{ADMIN}" password="{passwords[ADMIN]}";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Anonymous is who speaks on the controllers' own listener, which no client is told of.
            "super.users": f"User:{ADMIN};User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
        },
        client=sasl_client(certificates, ADMIN, passwords[ADMIN]),
        users=passwords,
    )


def sasl_client(certificates: Certificates, user: str, password: str) -> dict[str, str]:
    return {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(certificates.authority),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": password,
    }


def _server_tls(certificates: Certificates) -> dict[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server_chain),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
    }
