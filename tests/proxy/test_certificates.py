"""What is said of certificates and keys that cannot work, and of which of them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.proxy import certificates
from gateway.proxy.certificates import faults, tls_context
from gateway.proxy.snapshot import TlsSpec
from tests.proxy.authority import Authority, private

CA = Authority()
CERTIFICATE, KEY = CA.issue("client.test")
OTHER_KEY = CA.issue("other.test")[1]
TORN = "\n".join(CERTIFICATE.splitlines()[:-3])
PROTECTED = private(ec.generate_private_key(ec.SECP256R1()), b"secret")


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "found"),
    [
        ("", "", "", []),
        (CA.certificate, CERTIFICATE, KEY, []),
        (f"A comment\n{CA.certificate}\n{CERTIFICATE}", "", "", []),
        ("", f"{CERTIFICATE}\n{CA.certificate}", KEY, []),
        ("none", "", "", [("ca", certificates.NO_CERTIFICATE)]),
        ("é", "", "", [("ca", certificates.NO_CERTIFICATE)]),
        (KEY, "", "", [("ca", certificates.KEY_ELSEWHERE)]),
        (f"{CA.certificate}\n{TORN}", "", "", [("ca", certificates.NO_CERTIFICATE)]),
        ("", TORN, KEY, [("certificate", certificates.NO_CERTIFICATE)]),
        ("", f"{CERTIFICATE}\n{KEY}", KEY, [("certificate", certificates.KEY_ELSEWHERE)]),
        ("", CERTIFICATE, "", [("key", certificates.KEY_MISSING)]),
        ("", "", KEY, [("certificate", certificates.CERTIFICATE_MISSING)]),
        ("", CERTIFICATE, OTHER_KEY, [("key", certificates.MISFIT)]),
        ("", CERTIFICATE, "none", [("key", certificates.NO_KEY)]),
        ("", CERTIFICATE, CERTIFICATE, [("key", certificates.NO_KEY)]),
        ("", CERTIFICATE, PROTECTED, [("key", certificates.NO_KEY)]),
        ("", CERTIFICATE, KEY[:60] + "\n-----END PRIVATE KEY-----", [("key", certificates.NO_KEY)]),
        ("x", "x", "", [("ca", certificates.NO_CERTIFICATE), ("certificate", certificates.NO_CERTIFICATE),
                        ("key", certificates.KEY_MISSING)]),
    ],
)  # fmt: skip
def test_each_fault_is_at_its_part(ca: str, certificate: str, key: str, found: list[tuple[str, str]]) -> None:
    assert list(faults(ca, certificate, key)) == found


def test_equal_content_shares_a_context() -> None:
    first = TlsSpec(ca=CA.certificate, certificate=CERTIFICATE, key=KEY)
    assert tls_context(first) is tls_context(TlsSpec(ca=CA.certificate, certificate=CERTIFICATE, key=KEY))
    assert tls_context(first) is not tls_context(TlsSpec(ca=CA.certificate))
    assert tls_context(first) is not tls_context(first, http2=True)


def test_an_own_authority_stands_instead_of_the_systems() -> None:
    assert [len(tls_context(TlsSpec(ca=text)).get_ca_certs()) for text in (CA.certificate,)] == [1]


def test_a_key_is_in_no_representation() -> None:
    assert "PRIVATE" not in repr(TlsSpec(key=KEY))
