"""PATHs of live machines."""

import os

import pytest

from transfer.errors import UsageError
from transfer.sources.choose import named_source
from transfer.sources.qemu_live import LiveSource
from transfer.sources.qmp_address import QmpAddress, parse


def test_all_that_may_be_said():
    text = (
        "qmp:/run/vm%201?disks=vda,a%2Cb&agent=/run/agent&freeze=2.5&nbd=/run/nbd"
        "&fleece=/var/lib/f&fleece-size=1.5G"
    )
    assert parse(text) == QmpAddress(
        "/run/vm 1", ("vda", "a,b"), "/run/agent", 2.5, "/run/nbd", "/var/lib/f", 3 << 29
    )


def test_a_socket_is_enough_and_may_be_relative():
    assert parse("qmp:vm.sock") == QmpAddress(os.path.abspath("vm.sock"))
    assert QmpAddress("/s").fleece == "/var/tmp"


@pytest.mark.parametrize("text", [
    "qmp:", "qmp:?disks=a", "qmp:/s?disk=a", "qmp:/s?disks", "qmp:/s?disks=",
    "qmp:/s?disks=a&disks=b", "qmp:/s?disks=a,,b", "qmp:/s?disks=a&", "qmp:/s?fleece-size=15M",
    "qmp:/s?fleece-size=x", "qmp:/s?freeze=0", "qmp:/s?freeze=61", "qmp:/s?freeze=-1",
    "qmp:/s?freeze=nan", "qmp:/s%zz", "qmp:/s%00", "qmp:/s?agent=%0",
])  # fmt: skip
def test_what_is_not_understood_is_refused(text):
    with pytest.raises(UsageError):
        parse(text)


def test_a_path_of_that_kind_is_a_live_machine():
    assert isinstance(named_source("qmp:/run/vm"), LiveSource)
    with pytest.raises(UsageError):
        named_source("qmp:")
