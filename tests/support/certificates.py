"""A certificate that nobody vouches for: for servers that must not be trusted, and as all that a test trusts."""

from __future__ import annotations

import os
import ssl
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_AUTHORITIES = "SSL_CERT_FILE"
_OF_THE_MACHINE = "RUNBASE_TEST_AUTHORITIES"  # what the variable was; tells xdist's workers


def trust_nobody(folder: Path) -> None:
    """Trust one authority, which vouches for nobody.

    An HTTP client reads the world's 140 authorities when it is made, in 16 ms, and a test makes four.
    """
    os.environ.setdefault(_OF_THE_MACHINE, os.environ.get(_AUTHORITIES, ""))
    os.environ[_AUTHORITIES] = str(own_certificate(folder))


def trust_again() -> None:
    """Trust whom the machine trusts, as before."""
    _restore(os.environ)


def environment_for_the_world() -> dict[str, str]:
    """For a program that speaks to others than this machine, such as npm: it trusts whom the machine trusts."""
    environment = dict(os.environ)
    _restore(environment)
    return environment


def _restore(environment: MutableMapping[str, str]) -> None:
    before = environment.pop(_OF_THE_MACHINE, None)
    if before:
        environment[_AUTHORITIES] = before
    elif before is not None:
        del environment[_AUTHORITIES]


def server_context(folder: Path) -> ssl.SSLContext:
    """TLS for a server on 127.0.0.1, signed by itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_certificate(folder))
    return context


def own_certificate(folder: Path) -> Path:
    """A new key and its certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))
    return file
