"""What sources, targets and vaults need of a file system beyond the standard library.

Directories by descriptor, metadata, and the few system calls that Python does not offer.
"""
