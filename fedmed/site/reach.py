"""Whether the server can be reached safely: key, certificate, clocks and versions."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any, Final

from fedmed.base.errors import UserError
from fedmed.base.opening import MIB, check_regular
from fedmed.site.connection import Connection, read_key

SKEW: Final = 5.0
"""Seconds that Flower's server lets a node's clock be ahead of its own; behind, it is lenient."""

# OpenSSL's X509_V_ERR_* of verify_code.
_NOT_YET, _EXPIRED, _OTHER_NAME = 9, 10, (62, 64)


@dataclass(frozen=True)
class Check:
    """One line of a report: ``text`` is what was found, or what to do. ``later``: it may pass.

    ``skipped`` is a check that was not made, which is not ``ok``, and ``text`` says why; ``note``
    is a remark on what is ok, and no check.
    """

    name: str
    ok: bool
    text: str
    later: bool = False
    skipped: bool = False
    note: bool = False

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold; ``ok`` is None for a check that was skipped."""
        return {"name": self.name, "ok": None if self.skipped else self.ok, "text": self.text}


def knock(
    connection: Connection, *, seconds: float = 10.0, clock: Callable[[], float] = time.time
) -> list[Check]:
    """Key, CA, reachability, certificate, clock and Flower's version, up to the first that stops.

    ``clock`` gives this machine's time in seconds since 1970, UTC.
    """
    checks = [_key(connection)]
    try:
        check_regular(connection.ca, MIB)
        context = ssl.create_default_context(cafile=str(connection.ca))
    except (OSError, ssl.SSLError, UserError):
        text = f"{connection.ca} is no certificate that can be read; put the server's CA there"
        return [*checks, Check("certificate", False, text)]
    link = http.client.HTTPSConnection(
        connection.host, connection.port, timeout=seconds, context=context
    )
    try:
        link.connect()
        checks.append(Check("reachable", True, connection.address))
        checks.append(_certificate(link))
        link.request("GET", "/health")
        answer = link.getresponse()
        answer.read()
        checks.append(_clock(answer.headers.get("Date", ""), clock()))
        link.request("GET", "/openapi.json")
        checks.append(_version(link.getresponse().read()))
    except ssl.SSLCertVerificationError as error:
        checks.append(Check("certificate", False, _why(error, connection)))
    except ssl.SSLError:
        text = (
            f"{connection.address} does not speak TLS; correct the port, or have the server "
            "started with its certificate"
        )
        checks.append(Check("certificate", False, text))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = f"{connection.address}: {reason}; check the address, the firewall and the server"
        # A server that hangs up later was not reached, whatever it let us connect to.
        checks = [check for check in checks if check.name != "reachable"]
        checks.append(Check("reachable", False, text, later=True))
    finally:
        link.close()
    return checks


def _key(connection: Connection) -> Check:
    try:
        read_key(connection.key)
    except UserError as error:
        return Check("node key", False, str(error))
    return Check("node key", True, f"{connection.key}, for its owner only")


def _certificate(link: http.client.HTTPSConnection) -> Check:
    given = link.sock.getpeercert() if isinstance(link.sock, ssl.SSLSocket) else None
    until = str((given or {}).get("notAfter", ""))
    return Check("certificate", True, f"of {link.host}, signed by the CA, until {until}")


def _why(error: ssl.SSLCertVerificationError, connection: Connection) -> str:
    if error.verify_code == _EXPIRED:
        return (
            "the certificate of the server or of its CA has expired; the coordinator renews it, or "
            f"this machine's clock is wrong ({_today()})"
        )
    if error.verify_code == _NOT_YET:
        return f"the certificate does not hold yet; set this machine's clock right ({_today()})"
    if error.verify_code in _OTHER_NAME:
        return (
            f"the certificate is not for {connection.host}; use the name it was made for, or have "
            "one made with this name"
        )
    return (
        f"the server's certificate was not signed by {connection.ca}; get the right CA from the "
        "coordinator, and find out who answers if this one is right"
    )


def _clock(date: str, here: float) -> Check:
    try:
        skew = here - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        text = "the server tells no time; its certificate holds now, more cannot be said"
        return Check("clock", True, text)
    if abs(skew) > SKEW:
        way = "ahead of" if skew > 0 else "behind"
        text = f"{abs(skew):.0f} s {way} the server's; set it by NTP, Flower allows {SKEW:.0f} s"
        return Check("clock", False, text)
    return Check("clock", True, f"within {SKEW:.0f} s of the server's")


def _version(body: bytes) -> Check:
    own = version("flwr")
    try:
        theirs = str(json.loads(body)["info"]["version"])
    except (ValueError, KeyError, TypeError):
        return Check("version", False, "the server is no Flower SuperLink; correct the address")
    if theirs != own:
        text = f"Flower {own} here, {theirs} at the server; install the server's on both sides"
        return Check("version", False, text)
    return Check("version", True, f"Flower {own}, as the server's; fedmed's is compared on joining")


def _today() -> str:
    return time.strftime("it says %Y-%m-%d %H:%M UTC", time.gmtime())
