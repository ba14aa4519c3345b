"""Passphrases and recovery keys in files."""

from pathlib import Path

from transfer.errors import UsageError

MAX_FILE = 64 * 1024


def read_secret(path: Path) -> str:
    """The passphrase in a file. Raises UsageError, which names the file and never its content."""
    from transfer.crypto.wrap import normalise_passphrase

    raw = _read(path)
    try:
        normalise_passphrase(raw)
        return raw.decode()
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from None


def read_text(path: Path) -> str:
    try:
        return _read(path).decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8", "is it the right file?") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name a file that can be read") from error
    if len(raw) > MAX_FILE:
        raise UsageError(f"{path} is too long for a passphrase or key", "is it the right file?")
    return raw
