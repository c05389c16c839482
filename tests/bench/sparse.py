"""The same data in a dense image and scattered over a huge sparse one: holes must cost nothing."""

from __future__ import annotations

import random

from measure import MIB, Results, measure, median, remove
from noise import noise
from places import Bench
from table import mark, peak_note, table
from workload import parse_size

SPARSE_TARGET = 1.10


def run_sparse(bench: Bench) -> str:
    """Without cp, which would measure how fast it finds holes: the ratio is that to the dense image."""
    sparse = Sparse(bench)
    sparse.prepare()
    for run in range(bench.options.runs):
        sparse.one_run(run)
    return "\n\n".join([table(bench.results, {}, bench.floor_bytes()), peak_note(bench.results), ratios(bench.results)])


class Sparse:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.dense = bench.scratch / "dense.img"
        self.huge = bench.scratch / "huge.img"

    def prepare(self) -> None:
        self.bench.begin_scratch()
        data_bytes = parse_size(self.bench.options.sparse_data)
        huge_bytes = parse_size(self.bench.options.sparse_size)
        stride = huge_bytes // max(1, data_bytes // MIB)
        generator = random.Random(1)
        with open(self.dense, "wb") as dense, open(self.huge, "wb") as huge:
            huge.truncate(huge_bytes)
            for number in range(data_bytes // MIB):
                piece = noise(generator, MIB)
                dense.write(piece)
                huge.seek(number * stride // MIB * MIB)
                huge.write(piece)

    def one_run(self, run: int) -> None:
        bench = self.bench
        bench.begin()
        for name, image in (("dense", self.dense), ("huge", self.huge)):
            bench.point_source_at(image)
            bench.new_archive()
            bench.filler.fill()
            for operation in ("first", "unchanged"):
                sample = measure(run, bench.backy("backup", "--force"))
                bench.add(f"{name} {operation}", sample, bench.archive)
            remove(bench.archive)


def ratios(results: Results) -> str:
    lines = []
    for operation in ("first", "unchanged"):
        dense, huge = results.samples[f"dense {operation}"], results.samples[f"huge {operation}"]
        ratio = median(h.wall_seconds / d.wall_seconds for d, h in zip(dense, huge))
        lines.append(
            f"Huge sparse image against a dense one with the same data, {operation}: {ratio:.2f} x, "
            f"target ≤ {SPARSE_TARGET:.2f}{mark(ratio <= SPARSE_TARGET)}."
        )
    return "\n".join(lines)
