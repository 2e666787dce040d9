"""``docs/reference/seed-options.md``: every option of docker-machine's driver, and its proof."""

from __future__ import annotations

import pytest

from qup.model.settings import SETTINGS
from scripts.docs.seed import ROWS, Row, find_guest_tests, find_setting

DRIVER = {
    "accelerator", "boot2docker-url", "disk-size", "memory", "cpu-count", "program", "display",
    "display-type", "nographic", "virtio-drives", "network", "network-interface",
    "network-address", "network-bridge", "ssh-user", "userdata", "localports", "cache-mode",
    "io-mode",
}  # fmt: skip
"""The driver's options, of its page and of its source."""

ENVIRONMENT = {
    "QEMU_DISPLAY_TYPE": "--qemu-display-type",
    "QEMU_VIRTIO_DRIVES": "--qemu-virtio-drives",
    "QEMU_BOOT2DOCKER_URL": "--qemu-boot2docker-url",
    "QEMU_SSH_USER": "--qemu-ssh-user",
    "QEMU_LOCALPORTS": "--qemu-localports",
}
"""The driver's variables."""


def test_no_option_of_the_driver_is_missing() -> None:
    assert [row.option for row in ROWS] == list(dict.fromkeys(row.option for row in ROWS))
    assert {row.option for row in ROWS} == {f"--qemu-{name}" for name in DRIVER}
    old = {name for item in SETTINGS for name in (item.old, item.old_switch[0]) if name}
    assert old == {row.option for row in ROWS}


@pytest.mark.parametrize("variable", ENVIRONMENT)
def test_no_variable_of_the_driver_is_missing(variable: str) -> None:
    assert variable in find_setting(ENVIRONMENT[variable]).variables


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.option)
def test_a_test_with_a_real_guest_proves_it(row: Row) -> None:
    file, _, name = row.test.partition("::")
    assert name in find_guest_tests(file), row.test
