#!/usr/bin/env python3
"""Gets a revision out of a backy archive without backy and without qemu-img.

    python3 backy-rescue.py ARCHIVE                     lists the revisions
    python3 backy-rescue.py ARCHIVE REVISION TARGET     writes one, by its number or UUID, to a file or a device

Needs Python 3.6 or later and, for what is compressed, the command zstd (or Python 3.14). Reads the archive only, and
believes nothing that it reads: every block is compared with its digest, and the whole with the digest of the revision.
A block that cannot be read, or is not what was backed up, is named as lost and written as zeros. A target that exists
is only overwritten with --force.

Exit status: 0 all is right; 1 something is lost or wrong, or there was an error; 130 interrupted. The formats are
described in backy's doc/format.md.
"""
import os
import sys

# Modules are looked for beside this program first. It may lie in an archive, whose files are somebody else's.
_HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:] = [path for path in sys.path if path and os.path.realpath(path) != _HERE]

import argparse  # noqa: E402
import collections  # noqa: E402
import contextlib  # noqa: E402
import errno  # noqa: E402
import hashlib  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import shutil  # noqa: E402
import stat  # noqa: E402
import struct  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
import zlib  # noqa: E402

try:
    from compression import zstd
except ImportError:
    zstd = None

UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
IMAGE = "last.raw"
ZERO_ENTRY, LOST_ENTRY = bytes(32), b"\xff" * 32
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
# Stands for the content of a block that cannot be had.
LOST = None

# What files may claim; the first four are those of doc/format.md.
BLOCK_SIZES = [1 << bits for bits in range(12, 22)]
MANIFEST_BYTES = 64 << 20
HEAD_BYTES = 4096
LARGEST_IMAGE_BYTES = 512 << 40
L1_ENTRIES = 4 << 20
MEMORY_BYTES = 2 << 30
LOST_RANGES = 1_000_000
# What is worked on together.
OPEN_FILES = 100
BATCH_BYTES = 16 << 20
BATCH_BLOCKS = 256


class Failure(Exception):
    """An error that is told in one line."""


class Unsupported(Failure):
    """The archive needs a newer program."""


def plain(text):
    """For a terminal: what a file says must not move its cursor, or turn its text around."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))
    return text.encode(sys.stdout.encoding or "ascii", "backslashreplace").decode(sys.stdout.encoding or "ascii")


def tell(text):
    print(plain(text), file=sys.stderr)


def reason(error):
    """What an error says, in one line and without numbers."""
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def is_zero(data):
    return data.count(0) == len(data)


class Folder:
    """The files of the archive. No link is followed, and only regular files are read."""

    def __init__(self, path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.files = collections.OrderedDict()

    def close(self):
        for descriptor in [self.descriptor, *self.files.values()]:
            os.close(descriptor)

    def open(self, name):
        """A descriptor that stays open for a while: chains are longer than what may be open at once."""
        if name in self.files:
            self.files.move_to_end(name)
            return self.files[name]
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise Failure(f"{name}: is a symbolic link, which is not followed") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise Failure(f"{name}: found no regular file, and nothing else is read")
        self.files[name] = descriptor
        if len(self.files) > OPEN_FILES:
            os.close(self.files.popitem(last=False)[1])
        return descriptor

    def size(self, name):
        return os.fstat(self.open(name)).st_size

    def read(self, name, offset, length):
        """Fewer bytes only at the end of the file."""
        parts = []
        while length > 0:
            part = os.pread(self.open(name), length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def read_table(self, name, offset, length):
        """The same, and nothing at all where there are only zeros; a hole is not even read."""
        raw = self.read(name, offset, length) if self.next_data(name, offset) < offset + length else b""
        return b"" if is_zero(raw) else raw

    def next_data(self, name, offset):
        """Where the next byte is that may not be zero."""
        try:
            return os.lseek(self.open(name), offset, os.SEEK_DATA)
        except OSError as error:
            # A file system that does not know holes has data everywhere.
            return sys.maxsize if error.errno == errno.ENXIO else offset


class Revision:
    """What the manifest or the head of a digest file says of a revision, checked."""

    def __init__(self, record, block_size):
        def field(name, kind, is_right, expected):
            value = record.get(name)
            if type(value) is not kind or not is_right(value):
                raise Failure(f"{name} of a revision: found {str(value)[:60]!r}, expected {expected}")
            return value

        if type(record) is not dict:
            raise Failure("found a revision that is no object")
        if block_size not in BLOCK_SIZES:
            raise Failure(f"block_size: found {str(block_size)[:60]!r}, expected a power of two from 4096 to 2097152")
        largest = min(LARGEST_IMAGE_BYTES, block_size * block_size // 8 * L1_ENTRIES)
        self.block_bytes = block_size
        self.uuid = field("uuid", str, re.compile(UUID).fullmatch, "a UUID in lower case")
        self.started = field("started", str, lambda text: len(text) < 60, "a time")
        self.size = field("size_bytes", int, lambda size: 0 <= size <= largest, f"at most {largest} bytes")
        digest = re.compile("[0-9a-f]{64}").fullmatch
        self.digest = self.table_digest = bytes.fromhex(field("digest", str, digest, "64 hex digits"))
        if "table_digest" in record:
            self.table_digest = bytes.fromhex(field("table_digest", str, digest, "64 hex digits"))
        tags = field("tags", list, lambda tags: all(type(tag) is str for tag in tags), "a list of texts")
        self.tags = ", ".join(tags)
        # Whether last.raw may be this one's image, and whether a delta of its own may hold what it no longer has.
        self.is_newest, self.is_interrupted = False, False


def parse(raw):
    """JSON, without what takes long for what it is worth."""

    def number(digits):
        if len(digits) > 20:
            raise ValueError(f"found a number of {len(digits)} digits")
        return int(digits)

    def no_number(name):
        raise ValueError(f"found {name}")

    try:
        value = json.loads(raw.decode(), parse_int=number, parse_constant=no_number)
    except RecursionError:
        raise Failure("found lists in lists in lists") from None
    except ValueError as error:
        raise Failure(f"found no JSON: {error}") from None
    if type(value) is not dict:
        raise Failure("found no JSON object")
    return value


def manifest(folder):
    """The revisions by the manifest, newest first."""
    raw = folder.read("manifest.json", 0, MANIFEST_BYTES + 1)
    if len(raw) > MANIFEST_BYTES:
        raise Failure(f"found more than {MANIFEST_BYTES} bytes")
    before, key, after = raw.partition(b'"checksum": "')
    blank = before + key + b"0" * 64 + after[64:]
    if not key or hashlib.sha256(blank).hexdigest().encode() != after[:64]:
        raise Failure("the checksum is wrong")
    value = parse(raw)
    if value.get("format") != 1:
        raise Unsupported(f"manifest.json: found format {str(value.get('format'))[:20]}, this program knows format 1")
    features = value.get("incompatible", [])
    if features not in ([], ["standalone"]):
        raise Unsupported(f"manifest.json: needs {str(features)[:60]}, which this program does not know")
    records = value.get("revisions")
    if type(records) is not list:
        raise Failure("found no list of revisions")
    known = [Revision(record, value.get("block_size")) for record in records]
    for revision in known[:1]:
        revision.is_newest, revision.is_interrupted = True, value.get("in_progress") is not None
    return known


def digest_head(folder, name):
    """What the head of a digest file says: the revision."""
    raw = folder.read(name, 0, HEAD_BYTES)
    if len(raw) < HEAD_BYTES or raw[:12] != b"BACKYDIG\0\0\0\1":
        raise Failure(f"{name}: found no head of a digest file")
    identity = raw[64 : 64 + int.from_bytes(raw[24:28], "big")]
    if hashlib.sha256(raw[:32] + identity).digest() != raw[32:64]:
        raise Failure(f"{name}: the checksum of the head is wrong")
    record = parse(identity)
    revision = Revision(record, record.get("block_size"))
    kind = name[37:].split(".")[0]
    if revision.uuid != name[:36] or int.from_bytes(raw[12:16], "big") != {"image": 1, "delta": 2}[kind]:
        raise Failure(f"{name}: found the head of another file")
    return revision


def identities(folder):
    """The revisions from the heads of the digest files, newest first: for when the manifest is lost."""
    names, found = sorted(os.listdir(folder.descriptor)), {}
    for name in names:
        if re.fullmatch(rf"{UUID}\.(image|delta)\.digests", name):
            try:
                revision = digest_head(folder, name)
            except (Failure, OSError) as error:
                tell(f"passed over: {reason(error)}")
                continue
            is_newest = name.endswith(".image.digests")
            if is_newest or revision.uuid not in found:
                found[revision.uuid] = revision
                revision.is_newest, revision.is_interrupted = is_newest, revision.uuid + ".qcow2" in names
    return sorted(found.values(), key=lambda revision: revision.started, reverse=True)


def revisions(folder):
    try:
        return manifest(folder)
    except Unsupported:
        raise
    except (Failure, OSError) as error:
        tell(f"manifest.json cannot be used ({reason(error)}): taking the digest files instead")
        return identities(folder)


class Table:
    """The digests of blocks: of all of a revision, or of those that its delta holds."""

    def __init__(self, folder, uuid, kind):
        self.folder, self.name, self.is_whole = folder, f"{uuid}.{kind}.digests", kind == "image"
        self.size = digest_head(folder, self.name).size

    def entries(self, first, count):
        """Those of blocks that are not zero; LOST where the file does not say it."""
        offset = HEAD_BYTES + 32 * first
        try:
            is_there = self.folder.size(self.name) >= offset + 32 * count
            read = self.folder.read_table if is_there else self.folder.read
            raw = read(self.name, offset, 32 * count)
        except OSError as error:
            tell(f"{self.name}: cannot be read: {reason(error)}")
            is_there, raw = False, b""
        found = {}
        if raw or not is_there:
            for at in range(count):
                digest = raw[32 * at : 32 * at + 32]
                if digest != ZERO_ENTRY:
                    found[first + at] = digest if len(digest) == 32 else LOST
        return found


def find_table(folder, *places):
    for uuid, kind in places:
        with contextlib.suppress(Failure, OSError):
            return Table(folder, uuid, kind)
    return None


class Layer:
    """Something that holds blocks. This one stands for a file that cannot be used: it holds all, and gives none."""

    table, base, is_zstd, size = None, "", False, LARGEST_IMAGE_BYTES

    def held(self, first, count):
        """Of these blocks those that it holds, each with what says where it is."""
        return dict.fromkeys(range(first, first + count), 0)

    def read(self, blocks):
        """The content of blocks that it holds."""
        return dict.fromkeys(blocks, LOST)

    def digests(self, first, count, held):
        """What the digests of these blocks are said to be, each with the size of the revision that it was made of: LOST
        where nobody knows, nothing for zeros. There may be some of blocks that are not held."""
        if self.table is None:
            return dict.fromkeys(held, (LOST, self.size))
        entries = self.table.entries(first, count).items()
        is_said = [pair for pair in entries if pair[1] is not LOST or pair[0] in held or self.table.is_whole]
        return {block: (digest, self.table.size) for block, digest in is_said}


class Image(Layer):
    """last.raw: all that the newest revision has not in a delta."""

    def __init__(self, folder, newest, block_bytes):
        self.folder, self.block_bytes = folder, block_bytes
        length = folder.size(IMAGE)
        # While a merge is under way it may be longer, and what follows does not belong to it.
        self.size = length if newest is None else min(length, newest.size)
        self.table = None if newest is None else find_table(folder, (newest.uuid, "image"))

    def held(self, first, count):
        data = self.folder.next_data(IMAGE, first * self.block_bytes) // self.block_bytes
        return dict.fromkeys(range(max(first, data), first + count), 0)

    def read(self, blocks):
        content = {}
        for block in blocks:
            try:
                offset = block * self.block_bytes
                data = self.folder.read(IMAGE, offset, min(self.block_bytes, self.size - offset))
                content[block] = data.ljust(self.block_bytes, b"\0")
            except OSError:
                content[block] = LOST
        return content


class Delta(Layer):
    """A qcow2 overlay: some blocks of its own, all others those of its backing file."""

    def __init__(self, folder, name, block_bytes):
        self.folder, self.name, self.block_bytes = folder, name, block_bytes
        header = folder.read(name, 0, HEAD_BYTES).ljust(112, b"\0")
        magic, version, name_at, name_bytes, bits, self.size, encryption = struct.unpack(">IIQIIQI", header[:36])
        self.l1_entries, self.l1_at = struct.unpack(">IQ", header[36:48])
        snapshots, _, features = struct.unpack(">IQQ", header[60:80])
        if magic != 0x514649FB or version != 3:
            raise Failure(f"{name}: found no qcow2 header of version 3")
        # It may be dirty, and have a compression type, which is zlib or zstd.
        if encryption or snapshots or features & ~9 or header[104] > 1:
            raise Failure(f"{name}: found a feature of qcow2 that archives do not have")
        self.is_zstd = bool(features & 8) and header[104] == 1
        if bits > 21 or 1 << bits != block_bytes or self.l1_entries > L1_ENTRIES or name_bytes > 1023:
            raise Failure(f"{name}: found clusters or tables of a size that does not fit the archive")
        name_bytes = name_bytes if name_at else 0
        self.base = header[name_at : name_at + name_bytes].decode("ascii", "replace")
        if len(self.base) != name_bytes:
            raise Failure(f"{name}: found the name of the backing file at {name_at}, expected it in the header")
        if self.base and self.base != IMAGE and not re.fullmatch(UUID + r"\.qcow2", self.base):
            raise Failure(f"{name}: found the backing file {self.base[:60]!r}, expected a file of an archive")
        uuid = name[:36]
        self.table = find_table(folder, (uuid, "image"), (uuid, "delta"))
        if self.table is not None:
            # The header has it rounded up.
            self.size = self.table.size

    def held(self, first, count):
        # All these blocks are in one table, which is as long as a cluster.
        span, at = divmod(first, self.block_bytes // 8)
        if span >= self.l1_entries:
            return {}
        try:
            table = int.from_bytes(self.folder.read(self.name, self.l1_at + 8 * span, 8), "big") & OFFSET_MASK
            raw = self.folder.read_table(self.name, table + 8 * at, 8 * count) if table else b""
        except (OSError, OverflowError):
            table, raw = 1, b""
        if table % self.block_bytes:
            # Nobody knows which of them it holds, so the backing file does not have them either.
            return dict.fromkeys(range(first, first + count), LOST)
        entries = struct.unpack(f">{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])
        return {block: entry for block, entry in enumerate(entries, first) if entry}

    def read(self, blocks):
        content, packed = {}, {}
        for block, entry in blocks.items():
            if entry is LOST:
                content[block] = LOST
            elif entry >> 62 & 1:
                packed[block] = self.sectors(entry)
            elif entry & 1:
                content[block] = bytes(self.block_bytes)
            else:
                data = self.bytes_at(entry & OFFSET_MASK, self.block_bytes)
                content[block] = data if len(data) == self.block_bytes else LOST
        unpack = unzstd if self.is_zstd else inflate
        content.update(unpack(packed, self.block_bytes))
        return content

    def sectors(self, entry):
        """What a compressed cluster is in: whole sectors of 512 bytes, less at the end of the file."""
        offset_bits = 62 - (self.block_bytes.bit_length() - 1 - 8)
        offset = entry & ((1 << offset_bits) - 1)
        sectors = (entry & ((1 << 62) - 1)) >> offset_bits
        return self.bytes_at(offset, (sectors + 1) * 512 - offset % 512)

    def bytes_at(self, offset, length):
        try:
            return self.folder.read(self.name, offset, length)
        except (OSError, OverflowError):
            return b""


def inflate(packed, block_bytes):
    """What QEMU has packed with zlib."""
    content = {}
    for block, data in packed.items():
        try:
            unpacked = zlib.decompressobj(-15).decompress(data, block_bytes)
        except zlib.error:
            unpacked = b""
        content[block] = unpacked if len(unpacked) == block_bytes else LOST
    return content


def frame(data, block_bytes):
    """The zstd frame that data begins with, to its exact end, if it is one of a block: RFC 8878, section 3.1.1."""
    if len(data) < 6 or data[:4] != b"\x28\xb5\x2f\xfd":
        return LOST
    flags = data[4]
    single = flags >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]
    size_bytes = (single, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(data[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)
    if flags & 3 or size_bytes and size != block_bytes:
        return LOST
    at += size_bytes
    last = 0
    while not last:
        head = int.from_bytes(data[at : at + 3], "little")
        last, kind, length = head & 1, head >> 1 & 3, head >> 3
        if at + 3 > len(data) or kind == 3 or length > 128 << 10:
            return LOST
        at += 3 + (1 if kind == 1 else length)
    at += 4 * (flags >> 2 & 1)
    return data[:at] if at <= len(data) else LOST


def unzstd(packed, block_bytes):
    """All frames at once; if one of them is damaged, each by itself."""
    frames = {block: frame(data, block_bytes) for block, data in packed.items()}
    content = {block: LOST for block in packed}
    whole = {block: data for block, data in frames.items() if data is not LOST}
    if zstd is not None:
        for block, data in whole.items():
            with contextlib.suppress(zstd.ZstdError):
                decoder = zstd.ZstdDecompressor()
                unpacked = decoder.decompress(data, block_bytes + 1)
                content[block] = unpacked if decoder.eof and len(unpacked) == block_bytes else LOST
        return content
    unpacked = run_zstd(b"".join(whole.values()), len(whole) * block_bytes) if whole else LOST
    if unpacked is not LOST:
        parts = (unpacked[at : at + block_bytes] for at in range(0, len(unpacked), block_bytes))
        content.update(zip(whole, parts))
    elif len(whole) > 1:
        for block, data in whole.items():
            content[block] = run_zstd(data, block_bytes)
    return content


def run_zstd(data, expected_bytes):
    """What the command zstd makes of it, if that is as long as it has to be. No more than that is taken from it."""

    def feed():
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(data)

    command = ["zstd", "-dcq", "--memory=64MB"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    feeder = threading.Thread(target=feed)
    feeder.start()
    with process.stdout:
        unpacked = process.stdout.read(expected_bytes + 1)
    feeder.join()
    return unpacked if process.wait() == 0 and len(unpacked) == expected_bytes else LOST


def newest_image(known):
    """The revision that last.raw is the image of, or is becoming; without a manifest the one that has no delta."""
    candidates = [revision for revision in known if revision.is_newest]
    alone = [revision for revision in candidates if not revision.is_interrupted]
    return (alone or candidates)[0] if len(alone or candidates) == 1 else None


class Chain:
    """The files that a revision is read through, its own first."""

    def __init__(self, folder, known, revision):
        self.folder, self.known, self.revision, self.block_bytes = folder, known, revision, revision.block_bytes
        self.layers = [self.first()]
        self.check_size()
        seen = set()
        while self.layers[-1].base:
            name = self.layers[-1].base
            try:
                if name in seen:
                    raise Failure("is its own backing file, by way of others")
                seen.add(name)
                self.layers.append(self.open(name))
            except (Failure, OSError) as error:
                tell(f"what only {name} has is lost: {reason(error)}")
                self.layers.append(Layer())

    def open(self, name):
        if name == IMAGE:
            return Image(self.folder, newest_image(self.known), self.block_bytes)
        return Delta(self.folder, name, self.block_bytes)

    def first(self):
        name = self.revision.uuid + ".qcow2"
        if not self.revision.is_newest:
            return self.open(name)
        if self.revision.is_interrupted:
            # What is not finished holds nothing: nothing of the image was overwritten yet.
            with contextlib.suppress(Failure, OSError):
                return self.open(name)
        return self.open(IMAGE)

    def check_size(self):
        """The size decides how long this takes. A wrong one would be believed for nothing."""
        first, size = self.layers[0], self.revision.size
        is_rounded = first.table is None and isinstance(first, Delta)
        expected = -(-size // 512) * 512 if is_rounded else size
        found = first.size if first.table is None else first.table.size
        if found != expected:
            raise Failure(f"revision {self.revision.uuid}: the manifest says {size} bytes, another file {found}")

    def spans(self):
        """Pieces of the revision: the blocks of which one table of each delta says where they are."""
        blocks = -(-self.revision.size // self.block_bytes)
        for first in range(0, blocks, self.block_bytes // 8):
            yield first, min(self.block_bytes // 8, blocks - first)

    def locate(self, first, count):
        """Of these blocks those that a file holds: in which layer, and where. And what the digests are said to be, as
        layers say it. The content, or the digest, of all others is that of zeros."""
        places, digests, is_decided = {}, {}, False
        left = set(range(first, first + count))
        for layer in self.layers:
            if layer is not self.layers[0] and (first + count) * self.block_bytes > layer.size:
                # Past the end of its backing file a delta reads as zeros, whatever that one reads through to.
                left = {block for block in left if block * self.block_bytes < layer.size}
            held = layer.held(first, count)
            if not is_decided:
                # A block that is not held and has a digest all the same: its entry may have been lost.
                for block, digest in layer.digests(first, count, held).items():
                    if block in left:
                        digests.setdefault(block, digest)
                is_decided = layer.table is not None and layer.table.is_whole
            places.update((block, (layer, entry)) for block, entry in held.items() if block in left)
            left.difference_update(held)
            if not left:
                break
        return places, digests

    def read(self, places):
        """The content of located blocks."""
        by_layer, content = {}, {}
        for block, (layer, entry) in places.items():
            by_layer.setdefault(layer, {})[block] = entry
        for layer, blocks in by_layer.items():
            content.update(layer.read(blocks))
        return content


class Target:
    """What is written to: a new file, or with --force a file or block device that exists."""

    def __init__(self, path, size, folder, may_overwrite):
        real = os.path.realpath(path)
        if real.startswith(os.path.join(os.path.realpath(folder.path), "")):
            raise Failure(f"{path}: is in the archive, which is only read")
        self.path = path
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            self.is_file = True
            return
        except FileExistsError:
            if not may_overwrite:
                raise Failure(f"{path}: exists; --force overwrites it") from None
        link = os.lstat(path)
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
            raise Failure(f"{path}: is a link of another user, which is not followed")
        kind = os.lstat(real).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
            raise Failure(f"{path}: is neither a file nor a block device")
        # Of a block device this asks that nobody has it mounted.
        exclusive = os.O_EXCL if stat.S_ISBLK(kind) else 0
        self.descriptor = os.open(real, flags | os.O_NOFOLLOW | os.O_NONBLOCK | exclusive)
        try:
            self.check(size, folder)
        except BaseException:
            os.close(self.descriptor)
            raise

    def check(self, size, folder):
        """What exists must not be of the archive, and large enough. A file is made empty."""
        path = self.path
        found = os.fstat(self.descriptor)
        self.is_file = stat.S_ISREG(found.st_mode)
        if self.is_file:
            for name in os.listdir(folder.descriptor):
                if os.path.samestat(os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False), found):
                    raise Failure(f"{path}: is {name} of the archive, which is only read")
            os.ftruncate(self.descriptor, 0)
        elif not stat.S_ISBLK(found.st_mode) or os.lseek(self.descriptor, 0, os.SEEK_END) < size:
            raise Failure(f"{path}: is no block device of at least {size} bytes")

    def write(self, offset, data):
        """Leaves holes in a file."""
        if self.is_file and is_zero(data):
            return
        try:
            while data:
                written = os.pwrite(self.descriptor, data, offset)
                offset, data = offset + written, data[written:]
        except OSError as error:
            raise Failure(f"{self.path}: cannot write {len(data)} bytes at {offset}: {reason(error)}") from None

    def write_zeros(self, offset, end):
        while not self.is_file and offset < end:
            length = min(1 << 20, end - offset)
            self.write(offset, bytes(length))
            offset += length

    def finish(self, size):
        if self.is_file:
            os.ftruncate(self.descriptor, size)
        os.fsync(self.descriptor)

    def close(self):
        os.close(self.descriptor)


class Copy:
    """Writes a revision, and adds up what becomes of it."""

    def __init__(self, chain, target, as_found):
        self.chain, self.target, self.as_found = chain, target, as_found
        self.size, self.block_bytes = chain.revision.size, chain.block_bytes
        # Over the digests of what was read; and over what the digests should be. One and the same until they differ.
        self.found = self.expected = hashlib.sha256()
        self.zero_digest = hashlib.sha256(bytes(self.block_bytes)).digest()
        # Bytes, from and to.
        self.lost = []

    def run(self):
        step = max(1, min(BATCH_BLOCKS, BATCH_BYTES // self.block_bytes))
        for first, count in self.chain.spans():
            places, digests = self.chain.locate(first, count)
            if not places and not digests:
                self.zeros(range(first, first + count))
                continue
            for start in range(first, first + count, step):
                batch = range(start, min(start + step, first + count))
                content = self.chain.read({block: places[block] for block in batch if block in places})
                for block in batch:
                    data = content.get(block, bytes(self.block_bytes))
                    self.block(block, data, *digests.get(block, (ZERO_ENTRY, self.size)))
        self.target.finish(self.size)

    def zeros(self, batch):
        """Blocks that are zero, and should be."""
        end = min(batch.stop * self.block_bytes, self.size)
        is_short = end < batch.stop * self.block_bytes
        digests = self.zero_digest * (len(batch) - is_short)
        if is_short:
            digests += hashlib.sha256(bytes(end % self.block_bytes)).digest()
        self.add(digests, digests)
        self.target.write_zeros(batch.start * self.block_bytes, end)

    def block(self, block, content, digest, digest_size):
        """One block. The digest is that of the bytes up to `digest_size`, behind which there are zeros."""
        offset = block * self.block_bytes
        end = min(offset + self.block_bytes, self.size)
        is_there = content is not LOST
        content = content if is_there else bytes(self.block_bytes)
        data = content[: end - offset]
        found = hashlib.sha256(data).digest() if is_there else LOST_ENTRY
        if digest is LOST:
            is_right, expected = is_there, found
        elif digest == ZERO_ENTRY:
            is_right, expected = is_there and is_zero(data), hashlib.sha256(bytes(end - offset)).digest()
        else:
            own = content[: max(0, digest_size - offset)]
            own_digest = found if len(own) == len(data) else hashlib.sha256(own).digest()
            is_right = is_there and own_digest == digest and is_zero(content[len(own) :])
            expected = found if is_right else digest
        self.add(found, expected)
        if not is_right:
            self.lose(offset, end)
        if is_right or self.as_found:
            self.target.write(offset, data)
        else:
            self.target.write_zeros(offset, end)

    def add(self, found, expected):
        if found != expected and self.expected is self.found:
            self.expected = self.found.copy()
        self.found.update(found)
        if self.expected is not self.found:
            self.expected.update(expected)

    def lose(self, offset, end):
        if self.lost and self.lost[-1][1] == offset:
            self.lost[-1][1] = end
        elif len(self.lost) == LOST_RANGES:
            raise Failure(f"more than {LOST_RANGES} pieces are lost: this is no archive any more")
        else:
            self.lost.append([offset, end])


def restore(folder, known, wanted, path, may_overwrite):
    """Writes one revision; whether it came out right."""
    for number, revision in enumerate(known):
        if wanted in (str(number), revision.uuid):
            break
    else:
        raise Failure(f"{folder.path}: found no revision {wanted}, but {len(known)} from 0 on")
    chain = Chain(folder, known, revision)
    if zstd is None and any(layer.is_zstd for layer in chain.layers) and not shutil.which("zstd"):
        raise Failure("the command zstd is not installed, and this Python does not have it; nothing was written")
    with contextlib.closing(Target(path, revision.size, folder, may_overwrite)) as target:
        copy = Copy(chain, target, as_found=False)
        copy.run()
        is_right = copy.found.digest() == revision.digest
        if is_right and copy.lost:
            tell("the digest of the revision is right, those of single blocks are not: these are written as found")
            copy = Copy(chain, target, as_found=True)
            copy.run()
            is_right = copy.found.digest() == revision.digest
    if is_right:
        print(plain(f"{path}: {revision.size} bytes, the digest is right"))
        return True
    for offset, end in copy.lost:
        tell(f"lost: bytes {offset} to {end}")
    lost = f"{sum(end - offset for offset, end in copy.lost)} bytes are lost, and zero in their place"
    if not copy.lost:
        verdict = "nothing says which bytes are wrong"
    elif copy.expected.digest() == revision.table_digest:
        verdict = f"{lost}; all others are right"
    else:
        verdict = f"{lost}; and others may be wrong, nothing says which"
    print(plain(f"{path}: {revision.size} bytes, the digest is WRONG: {verdict}"))
    return False


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Failure(f"{message}; --help says more")


def run(arguments):
    parser = Parser(prog="backy-rescue.py", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args(arguments)
    if options.help:
        print(__doc__.strip())
        return 0
    if len(options.words) not in (1, 3):
        parser.error("expected ARCHIVE, or ARCHIVE REVISION TARGET")
    with contextlib.closing(Folder(options.words[0])) as folder:
        known = revisions(folder)
        if len(options.words) == 3:
            return 0 if restore(folder, known, *options.words[1:], options.force) else 1
        if not known:
            raise Failure(f"{folder.path}: found no revision")
    for number, revision in enumerate(known):
        print(plain(f"{number:3}  {revision.uuid}  {revision.started}  {revision.size:>15}  {revision.tags}"))
    return 0


def main(arguments):
    os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or soft > MEMORY_BYTES:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard))
    try:
        status = run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Nobody reads on. Python would complain at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Failure as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    except MemoryError:
        message = f"needs more than {MEMORY_BYTES} bytes of memory"
    except KeyboardInterrupt:
        tell("interrupted")
        return 130
    tell(f"backy-rescue: error: {message}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
