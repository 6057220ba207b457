"""The certificate of the CA that signed the server's: what a hospital may trust, and its mark."""

import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, expanded, read_bytes

_ASK: Final = "ask the coordinator for the certificate of the CA"


def read_authority(path: Path, where: str, now: datetime.datetime | None = None) -> bytes:
    """The content of a PEM file of CA certificates that hold ``now`` (by default: this moment).

    A file may have several, such as a root and an intermediate CA; each of them has to be one.
    Raises :class:`UserError`, which begins with ``where``, for anything else: a private key,
    another format, a certificate of a server, one that has expired or does not hold yet.
    """
    try:
        content = read_bytes(expanded(path), MIB, _ASK)
    except (UserError, OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{where}: cannot be read ({why}); correct the path") from error
    if b"PRIVATE KEY-----" in content:
        raise UserError(f"{where}: holds a private key; give the certificate alone")
    for certificate in _certificates(content, path, where):
        _check(certificate, where, now or datetime.datetime.now(datetime.UTC))
    return content


def fingerprint(content: bytes) -> str:
    """The first certificate's SHA-256, as ``openssl x509 -fingerprint -sha256`` prints it."""
    first, *_ = x509.load_pem_x509_certificates(content)
    return first.fingerprint(hashes.SHA256()).hex(":").upper()


def _certificates(content: bytes, path: Path, where: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        try:
            x509.load_der_x509_certificate(content)
        except ValueError:
            raise UserError(f"{where}: holds no certificate that can be read; {_ASK}") from error
        raise UserError(
            f"{where}: is DER, and PEM is needed; convert it with openssl x509 -inform der -in "
            f"{path} -out ca.crt"
        ) from error


def _check(certificate: x509.Certificate, where: str, now: datetime.datetime) -> None:
    name = certificate.subject.rfc4514_string() or "a certificate without a name"
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        authority = basic.value.ca
    except (x509.ExtensionNotFound, ValueError):
        authority = False
    if not authority:
        raise UserError(f"{where}: {name} is no CA, which signs others; {_ASK}")
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise UserError(
            f"{where}: {name} expired on {last:%Y-%m-%d}; {_ASK} that holds now, or set this "
            f"machine's clock right (it says {now:%Y-%m-%d})"
        )
    if now < first:
        raise UserError(
            f"{where}: {name} holds from {first:%Y-%m-%d %H:%M} UTC only; set this machine's clock "
            f"right (it says {now:%Y-%m-%d %H:%M} UTC), or wait"
        )
