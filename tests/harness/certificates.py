"""Certificates of the vendor's shape, made anew for each broker."""

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

USER = "tron_user"  # whom the client's certificate names, and who logs in with it


def _key_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general_name(host: str) -> x509.GeneralName:
    """Return a host name or an IP address as a certificate names it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def make_certificates(directory: Path, server_name: str = "kafka.example", host: str | None = None) -> None:
    """Write server.cer.pem, client.cer.pem, client.key.pem and the broker's server.pem into `directory`.

    As at the vendor, the server certificate has a common name but no subjectAltName, signs itself, and is the
    authority that signed the client's. `host`, a name or an IP address, adds the subjectAltName that it lacks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)

    def issue(name: str, issuer: str, public: Any, signing: rsa.RSAPrivateKey, host: str | None = None) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        return builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    server_key, client_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    server = issue(server_name, server_name, server_key.public_key(), server_key, host)
    client = issue(USER, server_name, client_key.public_key(), server_key)
    (directory / "server.cer.pem").write_bytes(server)
    (directory / "server.pem").write_bytes(_key_pem(server_key) + server)
    (directory / "client.cer.pem").write_bytes(client)
    (directory / "client.key.pem").write_bytes(_key_pem(client_key))
