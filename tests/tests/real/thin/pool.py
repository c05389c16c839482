"""Stands in for LVM and the device mapper: a volume group with a pool and thin volumes, in a folder.

The content of a volume is a file. The mappings are the state, from which `thin_restore` makes the metadata that the
real `thin_delta` reads. Writes share and unshare blocks as dm-thin does.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
from pathlib import Path

UNIT = 65536
STATE = Path(__file__).parent / "state.json"
GROUP = (STATE.parent / "group").read_text()
DEVICES = STATE.parent / "dev"


def fail(why: str) -> None:
    sys.exit(f"  {why}")


def new_uuid() -> str:
    letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return "-".join("".join(random.choices(letters, k=k)) for k in (6, 4, 4, 4, 4, 4, 6))


def mapped(name: str) -> str:
    """The name in the device mapper."""
    return "-".join(part.replace("-", "--") for part in (GROUP, name))


METADATA = STATE.parent / "mapper" / mapped("pool_tmeta")
TPOOL = mapped("pool") + "-tpool"


class Pool:
    def __init__(self, state: dict) -> None:
        self.state = state
        self.volumes: dict[str, dict] = state["volumes"]

    @staticmethod
    def new() -> dict:
        return {"uuid": new_uuid(), "group": new_uuid(), "tags": [], "held": None, "next_block": 0, "next_device": 1,
                "transaction": 0, "volumes": {}}

    def find(self, named: str) -> dict:
        group, _, name = named.partition("/")
        if group != GROUP or name not in self.volumes:
            fail(f'Failed to find logical volume "{named}"')
        return self.volumes[name]

    def content(self, name: str) -> Path:
        return DEVICES / name

    # What the administrator and the guest do.

    def make(self, name: str, size: str, external: str = "") -> None:
        self.add(name, int(size), {}, [], external)
        self.volumes[name]["active"] = True
        with self.content(name).open("wb") as file:
            file.truncate(int(size))

    def add(self, name: str, size: int, mapping: dict, tags: list, external: str) -> None:
        self.state["transaction"] += 1
        device = self.state["next_device"]
        self.state["next_device"] += 1
        self.volumes[name] = {"uuid": new_uuid(), "device": device, "size": size, "tags": tags, "active": False,
                              "mapping": mapping, "external": external}

    def write(self, name: str, offset: str, length: str, value: str) -> None:
        start, end = int(offset), int(offset) + int(length)
        with self.content(name).open("r+b") as file:
            file.seek(start)
            file.write(bytes([int(value)]) * (end - start))
        self.unshare(name, start // UNIT, -(-end // UNIT))

    def unshare(self, name: str, begin: int, end: int) -> None:
        mapping = self.volumes[name]["mapping"]
        others = {block for other, volume in self.volumes.items() if other != name
                  for block in volume["mapping"].values()}
        for block in range(begin, end):
            if mapping.get(str(block)) in others | {None}:
                mapping[str(block)] = self.state["next_block"]
                self.state["next_block"] += 1

    def discard(self, name: str, begin: str, count: str) -> None:
        volume = self.volumes[name]
        with self.content(name).open("r+b") as file:
            for block in range(int(begin), int(begin) + int(count)):
                volume["mapping"].pop(str(block), None)
                length = min(UNIT, max(volume["size"] - block * UNIT, 0))
                file.seek(block * UNIT)
                file.write(bytes(length))

    def resize(self, name: str, size: str) -> None:
        self.volumes[name]["size"] = int(size)
        os.truncate(self.content(name), int(size))

    def merge(self, name: str, snapshot: str) -> None:
        """The volume becomes what the snapshot is, which is gone."""
        was = self.volumes.pop(snapshot)
        self.volumes[name].update({key: was[key] for key in ("device", "size", "mapping")})
        os.replace(self.content(snapshot), self.content(name))

    def rename(self, name: str, to: str) -> None:
        self.volumes[to] = self.volumes.pop(name)
        os.replace(self.content(name), self.content(to))

    # What the kernel does.

    def reserve(self) -> None:
        if self.state["held"] is not None:
            fail(f"device-mapper: message ioctl on {TPOOL} failed: Device or resource busy")
        lines = [f'<superblock uuid="" time="1" transaction="{self.state["transaction"]}" flags="0" version="2" '
                 f'data_block_size="{UNIT // 512}" nr_data_blocks="{self.state["next_block"] + 1}">']
        for volume in sorted(self.volumes.values(), key=lambda volume: volume["device"]):
            lines.append(f'<device dev_id="{volume["device"]}" mapped_blocks="{len(volume["mapping"])}" '
                         'transaction="1" creation_time="0" snap_time="0">')
            for block, data in sorted((int(block), data) for block, data in volume["mapping"].items()):
                lines.append(f'<single_mapping origin_block="{block}" data_block="{data}" time="0"/>')
            lines.append("</device>")
        xml = STATE.with_suffix(".xml")
        xml.write_text("\n".join([*lines, "</superblock>\n"]))
        subprocess.run(["thin_restore", "-i", xml, "-o", METADATA], check=True, stdout=subprocess.DEVNULL)
        self.state["held"] = 17

    def release(self) -> None:
        if self.state["held"] is None:
            fail(f"device-mapper: message ioctl on {TPOOL} failed: Invalid argument")
        self.state["held"] = None

    # The programs.

    def lvs(self, *_options: str) -> None:
        def row(name: str, **known: str) -> dict:
            fields = ["lv_uuid", "lv_size", "segtype", "pool_lv", "thin_id", "lv_tags", "lv_path", "lv_active",
                      "metadata_lv", "chunk_size"]
            base = {"vg_uuid": self.state["group"], "lv_name": name, **dict.fromkeys(fields, "")}
            plain = name.strip("[]")
            return {**base, "lv_dm_path": str(STATE.parent / "mapper" / mapped(plain)), **known}

        if _options[-1] != GROUP:
            fail(f'Volume group "{_options[-1]}" not found')
        rows = [
            row("root", segtype="linear", lv_uuid=new_uuid(), lv_size="4194304", lv_active="active"),
            row("[pool_tmeta]", segtype="linear", lv_uuid=new_uuid(), lv_size="4194304", lv_active="active"),
            row("pool", segtype="thin-pool", lv_uuid=self.state["uuid"], lv_size="1073741824", lv_active="active",
                metadata_lv="[pool_tmeta]", chunk_size=str(UNIT), lv_tags=",".join(self.state["tags"])),
        ]
        for name, volume in self.volumes.items():
            rows.append(row(name, segtype="thin", lv_uuid=volume["uuid"], lv_size=str(volume["size"]), pool_lv="pool",
                            thin_id=str(volume["device"]), lv_tags=",".join(volume["tags"]),
                            lv_path=str(self.content(name)), lv_active="active" if volume["active"] else ""))
        print(json.dumps({"report": [{"lv": rows}]}))

    def lvcreate(self, *options: str) -> None:
        values = dict(option.lstrip("-").partition("=")[::2] for option in options[:-1])
        assert {"snapshot", "setactivationskip"} < values.keys(), options
        assert values["permission"] == "r", options
        origin, name = self.find(options[-1]), values["name"]
        if name in self.volumes:
            fail(f'Logical volume "{name}" already exists in volume group "{GROUP}"')
        self.add(name, origin["size"], dict(origin["mapping"]), [values["addtag"]], origin["external"])
        source, target = self.content(options[-1].partition("/")[2]), self.content(name)
        target.write_bytes(source.read_bytes())

    def lvchange(self, *options: str) -> None:
        volume = self.state if options[-1] == f"{GROUP}/pool" else self.find(options[-1])
        for option in options[:-1]:
            key, _, value = option.partition("=")
            if key == "--activate":
                assert value == "n" or "--ignoreactivationskip" in options, options
                volume["active"] = value == "y"
            elif key == "--addtag":
                volume["tags"] = [*(tag for tag in volume["tags"] if tag != value), value]
            elif key == "--deltag":
                volume["tags"] = [tag for tag in volume["tags"] if tag != value]

    def lvremove(self, *options: str) -> None:
        assert options[0] == "--yes", options
        self.find(options[-1])
        name = options[-1].partition("/")[2]
        del self.volumes[name]
        self.content(name).unlink()

    def dmsetup(self, *words: str) -> None:
        if words[0] == "table":
            for name, volume in self.volumes.items():
                if mapped(name) == words[1] and volume["active"]:
                    print(f"0 {volume['size'] // 512} thin 253:4 {volume['device']} {volume['external']}".strip())
                    return
            fail("Device does not exist.")
        assert TPOOL in words, words
        if words[0] == "status":
            held = "-" if self.state["held"] is None else self.state["held"]
            print(f"0 2097152 thin-pool 5 13/1024 99/16384 {held} rw discard_passdown queue_if_no_space - 1024")
        elif words[-1] == "reserve_metadata_snap":
            self.reserve()
        else:
            assert words[-1] == "release_metadata_snap", words
            self.release()

    def thin_delta(self, *words: str) -> None:
        assert words[0] == "--metadata-snap", words
        if self.state["held"] is None:
            fail("no current metadata snap")
        sys.stdout.flush()
        os.execvp(os.environ.get("THIN_DELTA", "/usr/sbin/thin_delta"), ["thin_delta", *words[1:]])


def main() -> None:
    command, *words = sys.argv[1:]
    with (STATE.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = json.loads(STATE.read_text()) if STATE.exists() else Pool.new()
        getattr(Pool(state), command)(*words)
        part = STATE.with_suffix(".new")
        part.write_text(json.dumps(state))
        os.replace(part, STATE)


main()
