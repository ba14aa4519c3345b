"""Quiet files: what proves that a file's content is what it was, without reading it.

The boot, device, inode, handle, size, mtime and ctime of a file, where its ctime was taken after a
sync and is two seconds older than that: pages that are mapped and dirty have no ctime yet, and
clocks of file systems are coarse. It proves nothing across a crash of the machine, which may lose a
ctime and keep the data that was written with it, and nothing on file systems where mapped writes
leave no trace: `stamps_mapped_writes` knows these.
"""

from transfer.files.metadata import Stat

SETTLED = 2 * 10**9  # ns


def stat_identity(boot: str, moment: int, stat: Stat, handle: bytes) -> bytes:
    """Empty for a file that was written too lately before *moment*, when it was synced.

    *moment* is in ns of the file system's clock. Where boots cannot be told apart, *boot* is empty,
    and nothing is proven.
    """
    if not boot or stat.ctime >= moment - SETTLED:
        return b""
    said = boot, stat.dev, stat.ino, stat.size, stat.mtime, stat.ctime, handle.hex()
    return repr(said).encode()
