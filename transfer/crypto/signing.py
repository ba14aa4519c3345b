"""The domain's Ed25519 key: who can sign its points and keyrings, and how others check that."""

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def domain_id(public_key: bytes) -> bytes:
    """The 16-byte domain ID: the same in every vault."""
    return blake3(b"transfer domain 1" + public_key).digest(16)


def public_key_of(signing_key: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(signing_key).public_key().public_bytes_raw()


def sign(signing_key: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(signing_key).sign(message)


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
