#!/usr/bin/env python3
"""Make the test images: day0.img (a VM's disk) and day1..day3.img (the days after).

  workload.py --dir DIR [--size 4G|256M] [--days 3] [--seed 1]
  workload.py --dir DIR --compare        only print the changed percentages

Needs root (loop mounts), mkfs.ext4, Linux.  The selection of files and every byte
written by this program depend on --seed and on /usr alone; the ext4 metadata also
holds times and random inode generations, so two runs are alike, not bit-identical.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import time

MIB = 1 << 20
PAGE = 4096


def sh(*cmd: str) -> None:
    subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL)


def parse_size(s: str) -> int:
    unit = {"K": 10, "M": 20, "G": 30}.get(s[-1].upper())
    return int(s[:-1]) << unit if unit else int(s)


class Plan:
    """All amounts, scaled from the 4 GiB image."""

    def __init__(self, size: int) -> None:
        f = size / (4 << 30)
        self.size = size
        self.usr = int(1536 * MIB * f)  # bytes of /usr files
        self.db = int(512 * MIB * f) // MIB * MIB
        self.pages = max(100, int(8000 * f))  # 4 KiB page writes a day
        self.hot = max(8, int(560 * f))  # 64 KiB extents which take most of them
        self.files = max(10, int(100 * f)) if f < 1 else 100
        self.log = max(256 * 1024, int(12 * MIB * f))  # appended a day
        self.maxfile = max(2 * MIB, int(48 * MIB * f))


def usr_files(plan: Plan) -> tuple[list[tuple[str, int]], list[tuple[str, int]], int]:
    """A sorted, deterministic selection of /usr, spread over the whole tree."""
    out = []
    for top, dirs, names in os.walk("/usr"):
        dirs.sort()
        for n in sorted(names):
            p = os.path.join(top, n)
            try:
                st = os.lstat(p)
            except OSError:
                continue
            if (st.st_mode & 0o170000) == 0o100000 and 0 < st.st_size <= plan.maxfile:
                out.append((p, st.st_size))
    out.sort(key=lambda e: hashlib.sha256(e[0].encode("utf-8", "surrogateescape")).digest())
    take, rest, total = [], [], 0
    for e in out:
        if total + e[1] <= plan.usr:
            take.append(e)
            total += e[1]
        else:
            rest.append(e)
    return sorted(take), sorted(rest), total


class Mounted:
    def __init__(self, img: str) -> None:
        self.img, self.mnt = img, img + ".mnt"

    def __enter__(self) -> str:
        os.makedirs(self.mnt, exist_ok=True)
        sh("mount", "-o", "loop,noatime", self.img, self.mnt)
        return self.mnt

    def __exit__(self, *exc: object) -> None:
        sh("umount", self.mnt)
        os.rmdir(self.mnt)


class Pages:
    """Database-like pages: header, text-like records, some high-entropy bytes (zstd ~2-3x)."""

    def __init__(self, seed: int) -> None:
        r = random.Random(f"pool-{seed}")
        words = [bytes(r.choices(b"abcdefghijklmnopqrstuvwxyz", k=r.randint(3, 9))) for _ in range(4000)]
        self.pool = b" ".join(r.choices(words, k=200000))

    def page(self, r: random.Random, no: int) -> bytes:
        out = [no.to_bytes(8, "little"), r.getrandbits(64).to_bytes(8, "little")]
        size = 16
        while size < PAGE - 200:
            o = r.randrange(len(self.pool) - 200)
            rec = self.pool[o : o + 40 + (o % 120)] + r.getrandbits(256).to_bytes(32, "little")
            out.append(len(rec).to_bytes(4, "little"))
            out.append(rec)
            size += len(rec) + 4
        p = b"".join(out)
        return p + bytes(PAGE - len(p))


def log_text(r: random.Random, n: int) -> bytes:
    hosts = [f"vm{i:03d}" for i in range(12)]
    procs = ["sshd", "kernel", "nginx", "postgres", "cron", "systemd"]
    out: list[bytes] = []
    size, t = 0, 1700000000
    while size < n:
        t += r.randint(0, 3)
        line = (
            f"{t} {r.choice(hosts)} {r.choice(procs)}[{r.randint(300, 9999)}]: "
            f"GET /item/{r.randint(1, 99999)} {r.choice((200, 200, 200, 304, 404))} "
            f"{r.getrandbits(48):012x} took {r.randint(1, 900)}ms\n"
        ).encode()
        out.append(line)
        size += len(line)
    return b"".join(out)


def make_day0(img: str, plan: Plan, seed: int) -> None:
    if os.path.exists(img):
        os.unlink(img)
    with open(img, "wb") as f:
        f.truncate(plan.size)
    sh("mkfs.ext4", "-q", "-F", "-b", "4096", "-U", "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
       "-E", "lazy_itable_init=0,lazy_journal_init=0", img)
    take, _, total = usr_files(plan)
    with Mounted(img) as m:
        for p, _ in take:
            d = m + p
            os.makedirs(os.path.dirname(d), exist_ok=True)
            shutil.copyfile(p, d)
            os.utime(d, (1700000000, 1700000000))
        os.makedirs(m + "/var/log")
        r = random.Random(f"log-{seed}")
        for i in range(8):
            with open(f"{m}/var/log/app{i}.log", "wb") as f:
                f.write(log_text(r, plan.log // 2))
        os.makedirs(m + "/var/lib/db")
        pages, r = Pages(seed), random.Random(f"db-{seed}")
        with open(m + "/var/lib/db/data", "wb") as f:
            for no in range(plan.db // PAGE):
                f.write(pages.page(r, no))
        os.sync()
    print(f"day0: {len(take)} files, {total / MIB:.0f} MiB of /usr, {plan.db // MIB} MiB database")


def make_day(prev: str, img: str, plan: Plan, seed: int, day: int) -> None:
    sh("cp", "--reflink=auto", "--sparse=always", prev, img)
    take, rest, _ = usr_files(plan)
    r = random.Random(f"day-{seed}-{day}")
    rewritten = 0
    with Mounted(img) as m:
        # a package upgrade: files written anew under a temporary name, then renamed
        small = [e for e in take if 32 << 10 <= e[1] < 2 * MIB]
        for p, _ in r.sample(small, min(plan.files, len(small))):
            with open(p, "rb") as f:
                data = bytearray(f.read())
            for _ in range(1 + len(data) // 8192):  # another build of the same file
                o = r.randrange(len(data))
                data[o : o + 64] = r.randbytes(min(64, len(data) - o))
            os.makedirs(os.path.dirname(m + p), exist_ok=True)
            with open(m + p + ".new", "wb") as f:
                f.write(data)
            os.rename(m + p + ".new", m + p)
            rewritten += len(data)
        for i in range(8):
            with open(f"{m}/var/log/app{i}.log", "ab") as f:
                f.write(log_text(r, plan.log // 8))
        pages, npages = Pages(seed), plan.db // PAGE
        hot = r.sample(range(npages // 16), min(plan.hot, npages // 16))
        with open(m + "/var/lib/db/data", "r+b") as f:
            for i in range(plan.pages):
                # 1 in 13 anywhere, the others in the hot 64 KiB extents of the day
                no = r.randrange(npages) if i % 13 == 0 else r.choice(hot) * 16 + r.randrange(16)
                f.seek(no * PAGE)
                f.write(pages.page(r, no))
        os.sync()
    # the loop device may have filled holes; make them holes again
    sh("cp", "--reflink=auto", "--sparse=always", img, img + ".s")
    os.rename(img + ".s", img)
    print(f"day{day}: {plan.files} files rewritten ({rewritten / MIB:.1f} MiB), "
          f"{plan.log / MIB:.1f} MiB appended to logs, {plan.pages} page writes")


def changed(a: str, b: str) -> dict[int, tuple[int, int]]:
    """Changed blocks of 4 KiB, 64 KiB, 4 MiB, and how many there are."""
    sizes = {4096: 0, 65536: 0, 4 * MIB: 0}
    total = os.path.getsize(b)
    with open(a, "rb") as fa, open(b, "rb") as fb:
        pos = 0
        while True:
            x, y = fa.read(4 * MIB), fb.read(4 * MIB)
            if not x and not y:
                break
            if x != y:
                sizes[4 * MIB] += 1
                for o in range(0, max(len(x), len(y)), 65536):
                    if x[o : o + 65536] != y[o : o + 65536]:
                        sizes[65536] += 1
                        for q in range(o, o + 65536, 4096):
                            if x[q : q + 4096] != y[q : q + 4096]:
                                sizes[4096] += 1
            pos += 4 * MIB
    return {bs: (n, -(-total // bs)) for bs, n in sizes.items()}


def report(d: str, days: int) -> list[dict[str, tuple[int, int]]]:
    rows = []
    for i in range(days + 1):
        p = f"{d}/day{i}.img"
        st = os.stat(p)
        line = f"day{i}.img  {st.st_size / MIB:.0f} MiB, allocated {st.st_blocks * 512 / MIB:.0f} MiB"
        if i:
            c = changed(f"{d}/day{i - 1}.img", p)
            line += "  changed: " + ", ".join(
                f"{n}/{t} {name} ({100 * n / t:.2f} %)"
                for (n, t), name in zip(c.values(), ("4 KiB", "64 KiB", "4 MiB")))
            rows.append({str(k): v for k, v in c.items()})
        print(line)
    return rows


def main() -> None:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--dir", required=True)
    a.add_argument("--size", default="4G")
    a.add_argument("--days", type=int, default=3)
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--compare", action="store_true")
    o = a.parse_args()
    os.makedirs(o.dir, exist_ok=True)
    t = time.time()
    if not o.compare:
        plan = Plan(parse_size(o.size))
        make_day0(f"{o.dir}/day0.img", plan, o.seed)
        # day0 too: cp makes zeroed blocks holes
        sh("cp", "--reflink=auto", "--sparse=always", f"{o.dir}/day0.img", f"{o.dir}/day0.img.s")
        os.rename(f"{o.dir}/day0.img.s", f"{o.dir}/day0.img")
        for i in range(1, o.days + 1):
            make_day(f"{o.dir}/day{i - 1}.img", f"{o.dir}/day{i}.img", plan, o.seed, i)
    rows = report(o.dir, o.days)
    with open(f"{o.dir}/workload.json", "w") as f:
        json.dump({"size": os.path.getsize(f"{o.dir}/day0.img"), "days": o.days, "seed": o.seed, "changed": rows}, f)
    print(f"{time.time() - t:.0f} s")


if __name__ == "__main__":
    main()
