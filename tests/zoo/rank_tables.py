"""Rank tables as the model zoo's tool writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def table_of(servers: dict[str, list[int]]) -> dict[str, Any]:
    """Server address -> device numbers; ranks are given in order."""
    rank, entries = 0, []
    for address, device_ids in servers.items():
        devices = []
        for device_id in device_ids:
            devices.append(
                {
                    "device_id": str(device_id),
                    "device_ip": f"192.{1 + device_id // 200}.0.{device_id % 200 + 6}",
                    "rank_id": str(rank),
                }
            )
            rank += 1
        entries.append({"server_id": address, "device": devices, "host_nic_ip": "reserve"})
    return {
        "version": "1.0",
        "server_count": str(len(servers)),
        "server_list": entries,
        "status": "completed",
    }


def write_table(folder: Path, table: dict[str, Any]) -> Path:
    path = folder / "rank_table.json"
    path.write_text(json.dumps(table))
    return path
