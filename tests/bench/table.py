"""The results as Markdown, with targets. The program asserts nothing: a target that is missed is marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from measure import MIB, Results, Sample, median

# Operation of backy: highest accepted ratio to cp in the same run.
TARGETS = {
    "first": 1.1,
    "day": 0.65,
    "unchanged": 0.5,
    "restore-newest": 1.1,
    "restore-oldest": 1.2,
    "restore-near": 0.6,
    "scrub": 0.6,
    "rm-oldest": 0.01,
    "rm-middle": 0.05,
}
PEAK_TARGET_MIB = 64
# Bytes written by the removal of a middle revision, to the bytes of its own delta.
RM_MIDDLE_TARGET = 1.5
# The archive, less the image, to the changed blocks, compressed.
BYTES_TARGET = 1.05
# Rows that are not backy's.
PEER_PROGRAMS = ("restic", "borg")
TRACKED_PEERS = ("blockdev-backup", "backup-begin", "virtnbdbackup", "export-diff")
NOT_BACKY = ("cp", "sha256sum", "qemu-img", *PEER_PROGRAMS, *TRACKED_PEERS)


def table(results: Results, targets: Mapping[str, float], floor_bytes: int) -> str:
    lines = [
        "| operation | seconds: median (min–max) | ratio to cp | target | CPU s | peak MiB | stored MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, samples in results.samples.items():
        ratios = [sample.ratio for sample in samples if sample.ratio is not None]
        stored = [sample.stored_bytes for sample in samples if sample.stored_bytes is not None]
        target = targets.get(name) if ratios else None
        cells = (
            name,
            seconds_cell(samples),
            spread(ratios) if ratios else "",
            f"≤ {target}{mark(median(ratios) <= target)}" if target else "",
            cpu_cell(samples),
            peak_cell(max(sample.peak_bytes for sample in samples), floor_bytes),
            f"{max(stored) / MIB:.0f}" if stored else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds_cell(samples: list[Sample]) -> str:
    return spread([sample.wall_seconds for sample in samples])


def spread(values: list[float]) -> str:
    """Median, lowest and highest; with three decimals where two would not tell."""
    digits = 2 if median(values) >= 0.1 else 3
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def cpu_cell(samples: list[Sample]) -> str:
    return f"{median(sample.cpu_seconds for sample in samples):.2f}"


def peak_cell(peak_bytes: int, floor_bytes: int) -> str:
    below = "< " if peak_bytes < floor_bytes + MIB else ""
    return f"{below}{-(-peak_bytes // MIB)}"


def mark(met: bool) -> str:
    return "" if met else " (missed)"


def stored_table(results: Results, days: int) -> str:
    """What each program's archive takes after each day, medians; empty where no days were measured."""
    lines = []
    for program, prefix in (("backy", ""), *((name, f"{name} ") for name in PEER_PROGRAMS)):
        samples = results.samples.get(f"{prefix}day", [])
        if not samples:
            continue
        stored = [stored_mib(results.samples[f"{prefix}first"])]
        stored += [stored_mib([sample for sample in samples if sample.day == day]) for day in range(1, days + 1)]
        cells = (program, *(f"{mib:.0f}" for mib in stored), f"{(stored[-1] - stored[0]) / days:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return ""
    heads = ("stored MiB after", "first", *(f"day {day}" for day in range(1, days + 1)), "more each day")
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines])


def stored_mib(samples: list[Sample]) -> float:
    return median(sample.stored_bytes or 0 for sample in samples) / MIB


def peak_note(results: Results) -> str:
    peaks = [
        sample.peak_bytes
        for name, samples in results.samples.items()
        for sample in samples
        if not name.startswith(NOT_BACKY)
    ]
    if not peaks:
        return ""
    peak = -(-max(peaks) // MIB)
    return f"Peak memory of backy: {peak} MiB, target ≤ {PEAK_TARGET_MIB} MiB{mark(peak <= PEAK_TARGET_MIB)}."


def removal_note(results: Results) -> str:
    samples = results.samples.get("rm-middle", [])
    if not samples:
        return ""
    share = median(sample.written_bytes / (sample.delta_bytes or 1) for sample in samples)
    return (
        f"Removing a middle revision wrote {share:.2f} times the bytes of its delta, "
        f"target ≤ {RM_MIDDLE_TARGET}{mark(share <= RM_MIDDLE_TARGET)}."
    )


def bytes_note(results: Results) -> str:
    figures: dict[str, Any] | None = results.figures.get("bytes")
    if figures is None:
        return ""
    archive, image, deltas, changed = (
        figures[f"{part}_bytes"] / MIB for part in ("archive", "image", "deltas", "changed_compressed")
    )
    met = archive <= image + BYTES_TARGET * changed
    return (
        f"Archive after the last day: {archive:.1f} MiB; of these the image has {image:.1f}, and the deltas "
        f"{deltas:.1f}, {deltas / changed:.3f} times the changed blocks of 64 KiB as they were before, each compressed "
        f"with zstd -1 ({changed:.1f}). Target ≤ {image:.1f} + {BYTES_TARGET} x {changed:.1f}{mark(met)}."
    )
