"""Recovery key: 160 random bits as a person prints, keeps and types them.

    20 bytes   the key
     5 bytes   check   of BLAKE3 over a label and the key

Both together are 40 characters of base32 in groups of five. Its alphabet (A-Z, 2-7) has none of the
digits that look like a letter: 0, 1 and 8 can only have been O, I and B, and are read as those.
Case, blanks and dashes do not matter. Any other slip fails the check: one in 2^40 passes.
"""

import base64
import unicodedata

from blake3 import blake3

from transfer.errors import UsageError

SIZE = 20
_CHECK_SIZE = 5
_LENGTH = (SIZE + _CHECK_SIZE) * 8 // 5
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LOOK_ALIKE = str.maketrans("018", "OIB")


def printed(key: bytes) -> str:
    text = base64.b32encode(key + _check_of(key)).decode()
    return "-".join(text[at : at + 5] for at in range(0, _LENGTH, 5))


def parsed(text: str) -> bytes:
    """The key; raises UsageError, which says what is wrong and never shows what was typed."""
    typed = [c for c in text if not c.isspace() and unicodedata.category(c) != "Pd"]
    characters = "".join(typed).upper().translate(_LOOK_ALIKE)
    for place, character in enumerate(characters, 1):
        if character not in _ALPHABET:
            raise _slip(f"character {place} is none of A-Z and 2-7")
    if len(characters) != _LENGTH:
        raise _slip(f"it has {len(characters)} characters, and needs {_LENGTH}")
    raw = base64.b32decode(characters)
    key = raw[:SIZE]
    if _check_of(key) != raw[SIZE:]:
        raise _slip("a character is wrong, or two are swapped")
    return key


def _check_of(key: bytes) -> bytes:
    return blake3(b"transfer recovery key 1" + key).digest(_CHECK_SIZE)


def _slip(what: str) -> UsageError:
    return UsageError(
        f"that is not a recovery key: {what}",
        "compare it with the print; 2 and Z, 5 and S, 6 and G are easily taken for each other",
    )
