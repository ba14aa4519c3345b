"""Each command of perf/ begins: what only the long ones run is imported by nobody else."""

import importlib
import pkgutil

import pytest

import perf


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(perf.__path__)])
def test_every_module_can_be_imported(name):
    if name in ("plot", "throttle_plot"):
        pytest.importorskip("matplotlib")
    importlib.import_module(f"perf.{name}")
