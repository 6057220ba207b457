"""A private certificate authority and a server certificate, for trials of a federation."""

import datetime
import ipaddress
import os
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmed.base import files
from fedmed.base.errors import UserError

DAYS: Final = 90
"""How long a trial's certificates hold by default."""

_MOST_DAYS: Final = 3650
_NAMES: Final = ("ca.key", "ca.crt", "server.key", "server.crt")


def make_certificates(
    folder: Path, hosts: list[str], days: int = DAYS, start: datetime.datetime | None = None
) -> list[Path]:
    """Write ``ca.key``, ``ca.crt``, ``server.key`` and ``server.crt``; the keys for the owner only.

    ``hosts`` are the names or addresses by which hospitals reach the server, ``start`` the first
    moment at which the certificates hold (by default an hour ago, for clocks that differ a little).
    Raises :class:`UserError` where a file is there already: nothing is overwritten.
    """
    if not hosts:
        raise UserError("--host is missing; name the server as the hospitals reach it")
    if not 1 <= days <= _MOST_DAYS:
        raise UserError(f"--days {str(days)[:20]}: give 1 to {_MOST_DAYS}")
    names = [_name(host) for host in hosts]
    new(folder, _NAMES)
    first = start or datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    last = first + datetime.timedelta(days=days)
    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedmed trial CA")])
    root = (
        _builder(authority, authority, authority_key.public_key(), first, last)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA384())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    server = (
        _builder(subject, authority, server_key.public_key(), first, last)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    pem = serialization.Encoding.PEM
    write_secret(folder / "ca.key", _pem(authority_key))
    files.write_bytes(folder / "ca.crt", root.public_bytes(pem))
    write_secret(folder / "server.key", _pem(server_key))
    files.write_bytes(folder / "server.crt", server.public_bytes(pem))
    return [folder / name for name in _NAMES]


def new(folder: Path, names: tuple[str, ...]) -> None:
    """Raise :class:`UserError` where one of ``names`` is in ``folder``."""
    for name in names:
        if os.path.lexists(folder / name):
            raise UserError(
                f"{folder / name} is there already and is not overwritten; choose another folder "
                "or move it away"
            )


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read (mode 0600), never over another one."""
    with files.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not written first and closed to others afterwards: in between they could open it.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host.isascii() or not host or any(c.isspace() or c in ":/," for c in host):
        raise UserError(
            f"--host {host!r}: give a name or an address alone, without port or https://"
        )
    return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    first: datetime.datetime,
    last: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
