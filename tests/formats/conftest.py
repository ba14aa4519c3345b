"""The same examples in every run, and no deadline on a machine that others use too."""

from hypothesis import settings

settings.register_profile("formats", deadline=None, derandomize=True)
settings.load_profile("formats")
