"""A backup in which nothing has changed, of an image that is huge and nearly empty: what the tables of digests cost.

They grow with the size of the image, not with its data. `plain` reads all the data, `reflink` none of it.
"""

from __future__ import annotations

from measure import MIB, measure, median, quiet
from places import Bench
from table import peak_note, table
from tracked import Disk, clonable
from workload import parse_size

KINDS = {"plain": "{}", "reflink": "reflink:{}"}


def run_tables(bench: Bench) -> str:
    options = bench.options
    with clonable(bench, "digest-tables") as folder:
        disk = Disk(bench, folder, parse_size(options.sparse_size))
        archives = {kind: folder / kind for kind in KINDS}

        def backup(run: int, kind: str, what: str) -> None:
            sample = measure(run, [options.backy, "-b", archives[kind], "backup", "--force"])
            bench.add(f"{kind} {what}", sample, archives[kind])

        quiet("sync")
        for kind, source in KINDS.items():
            quiet(options.backy, "-b", archives[kind], "init", source.format(disk.image))
            backup(0, kind, "first")
            disk.must_equal(archives[kind] / "last.raw", kind)
        for run in range(options.runs):
            for kind in KINDS if run % 2 else reversed(KINDS):
                backup(run, kind, "unchanged")
        # Those of the newest revision are as many as the image has blocks.
        table_bytes = max(file.stat().st_size for file in archives["reflink"].glob("*.image.digests"))
    samples = bench.results.samples
    ratio = median(
        one.wall_seconds / other.wall_seconds
        for one, other in zip(samples["reflink unchanged"], samples["plain unchanged"])
    )
    bench.results.figures["digest-tables"] = {"ratio": ratio, "table_bytes": table_bytes}
    line = f"Nothing changed, reflink against plain: {ratio:.3f} x. The table has {table_bytes / MIB:.0f} MiB."
    return "\n\n".join([table(bench.results, {}, bench.floor_bytes()), peak_note(bench.results), line])
