"""`make_rank_table.sh`: write the rank table of some servers, as the model zoo's hccl_tools did.

    make_rank_table.sh --server 10.0.0.1:0-7 --server 10.0.0.2:0-7 [--hccn IP=FILE] [--out FILE]

Ranks are numbered in the order of the servers and of their devices.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_json
from .command import exit_with
from .rank_table import is_local_address, read_rank_table

PROGRAM = "make_rank_table.sh"
HCCN = Path("/etc/hccn.conf")
"""Where Ascend's driver keeps the addresses of a server's devices: lines `address_0=192.1.0.6`."""
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False)
    parser.add_argument(
        "--server",
        action="append",
        required=True,
        metavar="IP:DEVICES",
        help="a server and its devices, such as 10.0.0.1:0-7 or 10.0.0.1:0,2,4; once for each",
    )
    parser.add_argument(
        "--hccn",
        action="append",
        default=[],
        metavar="IP=FILE",
        help=f"a copy of another server's {HCCN}, which has the devices' addresses",
    )
    parser.add_argument("--out", type=Path, default=Path("rank_table.json"))
    given = parser.parse_args(argv)
    if given.out.exists():
        raise UserError(f"{given.out} exists already; remove it, or choose another --out")
    servers = dict(map(server_of, given.server))
    if len(servers) < len(given.server):
        raise UserError("--server: an address comes twice; give all devices of a server at once")
    files = dict(map(hccn_of, given.hccn))
    if unknown := set(files) - set(servers):
        raise UserError(f"--hccn: {min(unknown)} is none of the servers {', '.join(servers)}")
    for address in servers:
        if address not in files and HCCN.is_file() and is_local_address(address):
            files[address] = HCCN
    addresses = {address: device_addresses(file) for address, file in files.items()}
    table = rank_table(servers, addresses)
    write_json(given.out, table)
    read_rank_table(given.out)  # what is written is what the training accepts
    ranks = sum(map(len, servers.values()))
    print(f"{given.out}: {ranks} devices on {len(servers)} servers")
    if without := [address for address in servers if address not in files]:
        print(
            f"without the devices' own addresses on {', '.join(without)}, which several servers "
            f"need: run this there, or give --hccn {without[0]}=FILE, a copy of its {HCCN}"
        )
    return 0


def rank_table(
    servers: dict[str, list[int]], addresses: dict[str, dict[int, str]]
) -> dict[str, Any]:
    """The table in the original's form, in which every scalar is a text.

    Raises UserError for a device whose server's file has no address of it.
    """
    entries, rank = [], 0
    for server, devices in servers.items():
        known, listed = addresses.get(server), []
        for device in devices:
            if known is not None and device not in known:
                raise UserError(f"no address_{device} in the hccn.conf of {server}")
            address = known[device] if known is not None else ""
            listed.append({"device_id": str(device), "device_ip": address, "rank_id": str(rank)})
            rank += 1
        entries.append({"server_id": server, "device": listed, "host_nic_ip": "reserve"})
    return {
        "version": "1.0",
        "server_count": str(len(servers)),
        "server_list": entries,
        "status": "completed",
    }


def server_of(text: str) -> tuple[str, list[int]]:
    """(address, devices) of `IP:0-7` or `IP:0,2,4`. Raises UserError."""
    address, _, devices = text.rpartition(":")
    found: list[int] = []
    for part in devices.split(","):
        match = _RANGE.fullmatch(part)
        if not match or not _is_address(address):
            raise UserError(f"--server: expected IP:DEVICES such as 10.0.0.1:0-7, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1)
    if not found or len(set(found)) < len(found):
        raise UserError(f"--server: expected each device once, first to last, got {text!r}")
    return address, found


def hccn_of(text: str) -> tuple[str, Path]:
    """(address, file) of `IP=FILE`. Raises UserError."""
    address, _, file = text.partition("=")
    if not _is_address(address) or not file:
        raise UserError(f"--hccn: expected IP=FILE, got {text!r}")
    return address, Path(file)


def device_addresses(file: Path) -> dict[int, str]:
    """Device number -> its address, of an `hccn.conf`. Raises UserError."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    lines = re.findall(r"^\s*address_([0-9]{1,4})\s*=\s*(\S+)\s*$", text, re.M)
    wrong = next((address for _, address in lines if not _is_address(address)), None)
    if wrong is not None or not lines:
        found = f"{wrong!r} is no IP address" if lines else "no line address_0=IP"
        raise UserError(f"{file}: {found}; expected a copy of {HCCN}")
    return {int(device): address for device, address in lines}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    exit_with(main, PROGRAM)
