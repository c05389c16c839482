#!/usr/bin/env python3
"""Gets a revision out of a backy archive without backy and without qemu-img.

    python3 backy-rescue.py ARCHIVE                     lists the revisions
    python3 backy-rescue.py ARCHIVE REVISION TARGET     writes one, by its number or UUID, to a file or a device

Needs Python 3.7 or later and, for what is compressed, the command zstd (or Python 3.14). Reads the archive only. What
was written is compared with the digest of the revision at the end. Exit status: 0 all is right, 1 it is not, or an
error. The formats are described in backy's doc/format.md.
"""
import hashlib
import json
import os
import struct
import subprocess
import sys

BATCH_BLOCKS = 256
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
# Stands for the content of a block that cannot be unpacked.
LOST = None


class Raw:
    """last.raw: the newest revision, unless a backup was interrupted."""

    def __init__(self, path, block_bytes):
        self.file = open(path, "rb")  # noqa: SIM115 - for as long as the program runs
        self.block_bytes = block_bytes
        self.size = os.path.getsize(path)

    def read(self, blocks):
        content = {}
        for block in blocks:
            self.file.seek(block * self.block_bytes)
            content[block] = self.file.read(self.block_bytes).ljust(self.block_bytes, b"\0")
        return content


class Delta:
    """A qcow2 overlay: some blocks of its own, all others those of its backing file."""

    def __init__(self, path):
        self.file = open(path, "rb")  # noqa: SIM115 - for as long as the program runs
        header = self.file.read(112)
        magic, version, name_at, name_bytes, bits, self.size = struct.unpack(">IIQIIQ", header[:32])
        if magic != 0x514649FB or version != 3:
            raise ValueError(f"{path}: found no qcow2 header of version 3")
        self.block_bytes = 1 << bits
        l1_entries, l1_at = struct.unpack(">IQ", header[36:48])
        self.file.seek(l1_at)
        self.l1 = struct.unpack(f">{l1_entries}Q", self.file.read(8 * l1_entries))
        self.l2 = (None, ())
        self.file.seek(name_at)
        name = self.file.read(name_bytes).decode()
        folder = os.path.dirname(path)
        self.base = open_layer(os.path.join(folder, os.path.basename(name)), self.block_bytes) if name else None

    def entry(self, block):
        table, at = divmod(block, self.block_bytes // 8)
        if self.l2[0] != table:
            offset = self.l1[table] & OFFSET_MASK
            self.file.seek(offset)
            raw = self.file.read(self.block_bytes) if offset else bytes(self.block_bytes)
            self.l2 = (table, struct.unpack(f">{self.block_bytes // 8}Q", raw))
        return self.l2[1][at]

    def read(self, blocks):
        content, frames, below = {}, {}, []
        for block in blocks:
            entry = self.entry(block) if block * self.block_bytes < self.size else 1
            if entry >> 62 & 1:
                frames[block] = self.frame(entry)
            elif entry & 1:
                content[block] = bytes(self.block_bytes)
            elif entry & OFFSET_MASK:
                self.file.seek(entry & OFFSET_MASK)
                content[block] = self.file.read(self.block_bytes)
            else:
                below.append(block)
        content.update(self.unpack(frames))
        if self.base is not None:
            # Past the end of its backing file an overlay reads as zeros, whatever that one reads through to.
            inside = [block for block in below if block * self.block_bytes < self.base.size]
            content.update(self.base.read(inside))
        for block in below:
            content.setdefault(block, bytes(self.block_bytes))
        return content

    def frame(self, entry):
        """The zstd frame of a compressed cluster, to its exact end: RFC 8878, section 3.1.1."""
        offset_bits = 62 - (self.block_bytes.bit_length() - 1 - 8)
        offset = entry & ((1 << offset_bits) - 1)
        sectors = (entry & ((1 << 62) - 1)) >> offset_bits
        self.file.seek(offset)
        data = self.file.read((sectors + 1) * 512 - offset % 512)
        flags = data[4]
        single = flags >> 5 & 1
        at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        last = 0
        while not last:
            head = int.from_bytes(data[at : at + 3], "little")
            last, kind = head & 1, head >> 1 & 3
            at += 3 + (1 if kind == 1 else head >> 3)
        return data[: at + 4 * (flags >> 2 & 1)]

    def unpack(self, frames):
        """All frames at once; if one of them is damaged, each by itself."""
        whole = unzstd(b"".join(frames.values()))
        if whole is not LOST and len(whole) == len(frames) * self.block_bytes:
            parts = (whole[at : at + self.block_bytes] for at in range(0, len(whole), self.block_bytes))
            return dict(zip(frames, parts))
        return {block: unzstd(frame) for block, frame in frames.items()}


def unzstd(data):
    if not data:
        return b""
    try:
        from compression import zstd
    except ImportError:
        done = subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return done.stdout if done.returncode == 0 else LOST
    try:
        return zstd.decompress(data)
    except zstd.ZstdError:
        return LOST


def open_layer(path, block_bytes):
    return Raw(path, block_bytes) if os.path.basename(path) == "last.raw" else Delta(path)


def identities(folder):
    """The revisions from the heads of the digest files, newest first: for when the manifest is lost."""
    found = {}
    for name in os.listdir(folder):
        if name.endswith(".digests"):
            with open(os.path.join(folder, name), "rb") as file:
                head = file.read(4096)
            found[name[:36]] = json.loads(head[64 : 64 + int.from_bytes(head[24:28], "big")])
    return sorted(found.values(), key=lambda revision: revision["started"], reverse=True)


def revisions(folder):
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        return [dict(revision, block_size=manifest["block_size"]) for revision in manifest["revisions"]]
    except (OSError, ValueError, KeyError) as error:
        print(f"manifest.json cannot be used ({error}): taking the digest files instead", file=sys.stderr)
        return identities(folder)


def top(folder, revision, is_newest):
    """The file to begin with. The newest has a delta only when a backup was interrupted; that delta then counts."""
    path = os.path.join(folder, revision["uuid"] + ".qcow2")
    try:
        return Delta(path)
    except (OSError, ValueError, struct.error):
        if not is_newest:
            raise
    return Raw(os.path.join(folder, "last.raw"), revision["block_size"])


def write(layer, revision, target, is_new):
    """Writes the revision, with holes where a new file is zero; says whether its digest came out right."""
    block_bytes, size = revision["block_size"], revision["size_bytes"]
    blocks = -(-size // block_bytes)
    total, lost = hashlib.sha256(), 0
    for first in range(0, blocks, BATCH_BLOCKS):
        batch = range(first, min(first + BATCH_BLOCKS, blocks))
        content = layer.read(batch)
        for block in batch:
            data = content[block]
            if data is LOST or len(data) != block_bytes:
                print(f"lost: bytes {block * block_bytes} to {(block + 1) * block_bytes}", file=sys.stderr)
                data, lost = bytes(block_bytes), lost + 1
            data = data[: size - block * block_bytes]
            total.update(hashlib.sha256(data).digest())
            if not is_new or data.count(0) != len(data):
                target.seek(block * block_bytes)
                target.write(data)
    if is_new:
        target.truncate(size)
    target.flush()
    os.fsync(target.fileno())
    return lost == 0 and total.hexdigest() == revision["digest"]


def main(arguments):
    if len(arguments) not in (1, 3):
        sys.exit(__doc__)
    folder = arguments[0]
    known = revisions(folder)
    if len(arguments) == 1:
        for number, revision in enumerate(known):
            tags = ", ".join(revision["tags"])
            print(f"{number:3}  {revision['uuid']}  {revision['started']}  {revision['size_bytes']:>15}  {tags}")
        return 0
    wanted, path = arguments[1:]
    for number, revision in enumerate(known):
        if wanted in (str(number), revision["uuid"]):
            break
    else:
        sys.exit(f"{folder}: found no revision {wanted}")
    if os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), "")):
        sys.exit(f"{path}: is in the archive, which is only read")
    layer = top(folder, revision, number == 0)
    is_new = not os.path.exists(path)
    with open(path, "w+b" if is_new else "r+b") as target:
        right = write(layer, revision, target, is_new)
    print(f"{path}: {revision['size_bytes']} bytes, the digest is {'right' if right else 'WRONG'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
