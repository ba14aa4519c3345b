"""A backup transfer engine and the vault behind it."""

__version__ = "0.1.0"
