"""TLS server contexts with valid and invalid certificates for 127.0.0.1, and the file of the trusted authority."""

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

HOST = "127.0.0.1"


def make(authority_file: Path) -> Mapping[str, ssl.SSLContext]:
    """Return the contexts by the state of their certificates ("good", "expired" and so on).

    Writes the authority's own certificate to `authority_file`, in PEM.
    """
    authority, other_authority = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(authority_file)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return {
        "good": _context(authority.issue_cert(HOST)),
        "expired": _context(authority.issue_cert(HOST, not_before=yesterday - timedelta(days=9), not_after=yesterday)),
        "wrong-host": _context(authority.issue_cert("host.example")),
        "self-signed": _context(other_authority.issue_cert(HOST)),
    }


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
