"""Choose: the best change source that there is for a PATH."""

import os

from transfer.errors import TransferError
from transfer.sources import nbd_address, qmp_address
from transfer.sources.changes import ChangeSource
from transfer.sources.image import open_image
from transfer.sources.nbd_view import NbdSource
from transfer.sources.plain import PlainSource
from transfer.sources.qcow2 import Qcow2Source
from transfer.sources.qemu_live import LiveSource
from transfer.sources.reflink import why_no_reflinks
from transfer.sources.reflinked import ReflinkSource

QCOW2 = "qcow2:"
_MAGIC = b"QFI\xfb"


def source_of(path: bytes, name: bytes) -> ChangeSource:
    """Of a regular file or block device; its disk stands under *name*."""
    why = _why_not_reflinked(path)
    hint = f"as a file; {QCOW2}PATH is the disk that is in it" if _is_qcow2(path) else ""
    if why is None:
        return ReflinkSource(path, name, hint)
    return PlainSource(path, name, f"{hint}, and knows its changes" if hint else why)


def _is_qcow2(path: bytes) -> bool:
    try:
        source = open_image(path)
        try:
            return os.pread(source, len(_MAGIC), 0) == _MAGIC
        finally:
            os.close(source)
    except (TransferError, OSError):
        return False


def _why_not_reflinked(path: bytes) -> str | None:
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return error.strerror
    try:
        source = open_image(path)
        try:
            return why_no_reflinks(source, directory)
        finally:
            os.close(source)
    except (TransferError, OSError) as error:
        return str(error)
    finally:
        os.close(directory)


def named_source(path: str) -> ChangeSource | None:
    """The source that *path* names by its scheme; None for a path of the file system.

    Raises UsageError for one that is not understood.
    """
    if path.startswith(QCOW2):
        return Qcow2Source(os.path.realpath(os.fsencode(path.removeprefix(QCOW2))))
    if nbd_address.is_nbd(path):
        return NbdSource(nbd_address.parse(path))
    if path.startswith(qmp_address.SCHEME):
        return LiveSource(qmp_address.parse(path))
    return None
