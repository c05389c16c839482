"""What `compression_level` costs and gives: the first day's changes, with one level after the other."""

from __future__ import annotations

from measure import MIB, Sample, allocated_bytes, measure, median, quiet, remove
from operations import delta_of
from places import Bench
from table import cpu_cell, peak_cell, seconds_cell

LEVELS = (1, 3, 6, 9, 12, 15, 19)


def run_levels(bench: Bench) -> str:
    for run in range(bench.options.runs):
        for level in LEVELS:
            one_run(bench, run, level)
    lines = [
        "| compression_level | seconds: median (min–max) | CPU s | peak MiB | delta MiB |",
        "|---|---|---|---|---|",
    ]
    floor_bytes = bench.floor_bytes()
    for name, samples in bench.results.samples.items():
        lines.append(f"| {' | '.join([name, *cells(samples, floor_bytes)])} |")
    return "\n".join(lines)


def one_run(bench: Bench, run: int, level: int) -> None:
    bench.begin()
    bench.point_source_at(bench.day(0))
    bench.new_archive()
    bench.configure(f"compression_level = {level}")
    quiet(*bench.backy("backup"))
    bench.point_source_at(bench.day(1))
    sample = measure(run, bench.backy("backup"))
    sample.delta_bytes = allocated_bytes(delta_of(bench, "1"))
    bench.add(str(level), sample, bench.archive)
    remove(bench.work)


def cells(samples: list[Sample], floor_bytes: int) -> list[str]:
    peak = peak_cell(max(sample.peak_bytes for sample in samples), floor_bytes)
    delta_mib = median(sample.delta_bytes or 0 for sample in samples) / MIB
    return [seconds_cell(samples), cpu_cell(samples), peak, f"{delta_mib:.1f}"]
