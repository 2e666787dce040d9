"""The options of the network modes ``tap`` and ``bridge``.

pydantic takes 50 ms: this module is loaded where a Qupfile is validated, not with the plugins.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from qup.api import Settings
from qup.builtin.taps import (
    GATEWAY_SCHEMA,
    GUEST_SCHEMA,
    HOST_SCHEMA,
    INTERFACE_SCHEMA,
    check_gateway,
    check_guest_address,
    check_interface,
    check_own_address,
)

Name = Annotated[str, AfterValidator(check_interface), WithJsonSchema(INTERFACE_SCHEMA)]
Guest = Annotated[str, AfterValidator(check_guest_address), WithJsonSchema(GUEST_SCHEMA)]
Gateway = Annotated[
    str,
    AfterValidator(lambda text, info: check_gateway(text, info.data)),
    WithJsonSchema(GATEWAY_SCHEMA),
]
Own = Annotated[str, AfterValidator(check_own_address), WithJsonSchema(HOST_SCHEMA)]

Address = Annotated[
    Guest | None,
    Field(
        description="The guest's address, where ssh goes; with its prefix length (192.168.7.2/24)"
        " the guest is told to take it. Default: it is looked for."
    ),
]
ItsGateway = Annotated[
    Gateway | None, Field(description="The gateway of a guest that is told its address.")
]


class TapOptions(Settings):
    """``[machine.network]`` with ``mode = "tap"``"""

    interface: Name = Field(
        default="tap0",
        description="The tap: one that is there, or one that qup makes where it may.",
    )
    address: Address = None
    gateway: ItsGateway = None
    host_address: Own | None = Field(
        default=None,
        description="This computer's address on a tap that qup makes: 192.168.7.1/24.",
    )
    bridge: Name | None = Field(
        default=None, description="The bridge that a tap is put on that qup makes."
    )


class BridgeOptions(Settings):
    """``[machine.network]`` with ``mode = "bridge"``"""

    bridge: Name = Field(default="br0", description="The bridge; it has to be there.")
    address: Address = None
    gateway: ItsGateway = None
