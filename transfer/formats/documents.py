"""Documents: bodies in JSON, of keyrings, records, journals and the sealed part of points.

Bytes are base64, times are ns since 1970. A reader checks the size of every field before it uses
one, and ignores fields that it does not know: what must not be ignored gets a feature, a kind or a
version of its own. A document is kept and passed on as the bytes that arrived, never made again
from what was read.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from transfer.errors import FormatError

Bytes8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Time = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Generation = Annotated[int, Meta(ge=1, le=2**32 - 1)]
Label = Annotated[str, Meta(min_length=1, max_length=256)]

Body = TypeVar("Body", bound=msgspec.Struct)


def encode(body: msgspec.Struct) -> bytes:
    """The JSON of *body*. Raises ValueError for a field that no reader would take."""
    raw = msgspec.json.encode(body)
    msgspec.json.decode(raw, type=type(body))
    return raw


def decode(raw: bytes | memoryview, body: type[Body], what: str) -> Body:
    """Raises FormatError, naming *what* it is, for anything that is not a *body*."""
    try:
        return msgspec.json.decode(raw, type=body)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} does not parse: {error}") from error
