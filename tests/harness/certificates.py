"""Certificates of the vendor's shape, made anew for each broker."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

SERVER = "kafka.example"
VALID = (-1, 365)  # days from today
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


def _issue(
    name: str, public: rsa.RSAPublicKey, authority: rsa.RSAPrivateKey, days: tuple[int, int], host: str | None = None
) -> bytes:
    """Return a certificate that is valid between two days, counted from today."""
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=name == SERVER, path_length=None), critical=True)
    )
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_certificates(
    directory: Path, host: str | None = None, days: tuple[int, int] = VALID, client_bits: int = 2048
) -> None:
    """Write server.cer.pem, client.cer.pem, client.key.pem and the broker's server.pem into `directory`.

    As at the vendor, the server certificate has a common name but no subjectAltName, signs itself, and is the
    authority that signed the client's. `host`, a name or an IP address, adds the subjectAltName that it lacks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(65537, 2048)
    server = _issue(SERVER, key.public_key(), key, days, host)
    (directory / "server.cer.pem").write_bytes(server)
    (directory / "server.pem").write_bytes(_key_pem(key) + server)
    make_client(directory, directory, bits=client_bits)


def make_client(directory: Path, authority: Path, days: tuple[int, int] = VALID, bits: int = 2048) -> None:
    """Write client.cer.pem and client.key.pem into `directory`, signed by what `authority` has."""
    key = rsa.generate_private_key(65537, bits)
    signing = load_pem_private_key((authority / "server.pem").read_bytes(), None)
    assert isinstance(signing, rsa.RSAPrivateKey)
    (directory / "client.cer.pem").write_bytes(_issue(USER, key.public_key(), signing, days))
    (directory / "client.key.pem").touch(mode=0o600)
    (directory / "client.key.pem").write_bytes(_key_pem(key))
