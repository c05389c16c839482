"""What the benchmark draws and adds up; what it measures is not tested."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

import plot
from conftest import skip
from measure import Results, Sample
from noise import BLOCK, noise
from stored import compressed_bytes, compressed_changes
from tracked import ratios

SECONDS = [(1.0, 0.2), (1.0, 0.25), (30.0, 0.21), (1000.0, 0.9), (1000.0, 0.7), (1000.0, 0.3)]
PANELS = [
    plot.Panel("seconds", [plot.Series("elapsed", SECONDS), plot.Series("CPU", [(0.0, 0.0), (1000.0, 1.4)])]),
    plot.Panel("MiB stored", [plot.Series("archive", [(1.0, 0.0), (1000.0, 0.52)])]),
]
NAMESPACE = "{http://www.w3.org/2000/svg}"


def drawn(panels: Sequence[plot.Panel] = PANELS) -> ElementTree.Element:
    return ElementTree.fromstring(plot.svg("Cost & length", "revisions, < 1000", panels))


def test_the_labels_are_all_there() -> None:
    """Title, axes, series and ticks are in the plot, which is well-formed XML whatever they contain."""
    texts = [text.text for text in drawn().iter(f"{NAMESPACE}text")]
    for label in ("Cost & length", "seconds", "MiB stored", "elapsed", "CPU", "archive"):
        assert texts.count(label) == 1
    assert texts.count("revisions, < 1000") == 2
    assert {"0", "200", "1000", "1.5", "0.6"} <= set(texts)


def test_every_point_is_drawn_within_the_axes() -> None:
    """As many points as were measured, none outside of its panel."""
    points = [path.get("d", "") for path in drawn().iter(f"{NAMESPACE}path") if "p " in path.get("class", "")]
    assert [path.count("h0") for path in points] == [6, 2, 2]
    for path, left in zip(points, (plot.LEFT, plot.LEFT, plot.LEFT + plot.PANEL_WIDTH + plot.GAP)):
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", path):
            assert left <= float(x) <= left + plot.PANEL_WIDTH
            assert plot.TOP <= float(y) <= plot.TOP + plot.PANEL_HEIGHT


def test_the_line_goes_through_the_medians() -> None:
    """One value for each place, in the order of the places, however the points came."""
    assert plot.Series("", list(reversed(SECONDS))).medians() == [(1.0, 0.225), (30.0, 0.21), (1000.0, 0.7)]


def test_the_same_points_give_the_same_small_file() -> None:
    """The order in which points were measured does not show, and a full plot is below 8 KB."""
    points = [(float(x), x / 7 + run) for x in range(8) for run in range(5)]
    panels = [
        plot.Panel("", [plot.Series("a", points), plot.Series("b", points)]),
        plot.Panel("", [plot.Series("c", points)]),
    ]
    text = plot.svg("t", "x", panels)
    assert len(text) < 8000
    turned = [plot.Panel(p.label, [plot.Series(s.name, s.points[::-1]) for s in p.series]) for p in panels]
    assert plot.svg("t", "x", turned) == text


@pytest.mark.parametrize("highest", [0.0, 0.003, 0.1, 0.7, 1.0, 4.0, 5.0, 99.0, 100.0, 1000.0, 1234.5])
def test_ticks_reach_the_highest_value(highest: float) -> None:
    """From 0 to the highest value and not a whole step farther, two to six of them."""
    ticks = plot.ticks(highest)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 6
    if highest:
        assert ticks[-2] < highest <= ticks[-1] * (1 + 1e-9)


def test_only_changed_blocks_count(tmp_path: Path) -> None:
    """As they were before, each by itself; a block that does not shrink counts as what it is."""
    try:
        one = compressed_bytes(noise(random.Random(1), BLOCK))
    except OSError as why:
        skip(f"{why}")
    assert BLOCK // 2 <= one < BLOCK * 0.6
    generator = random.Random(2)
    blocks = [
        generator.randbytes(BLOCK),
        bytes(BLOCK),
        noise(generator, BLOCK),
        noise(generator, BLOCK),
        b"a short end",
    ]
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"".join(blocks))
    new.write_bytes(old.read_bytes())
    assert compressed_changes(old, new) == 0
    new.write_bytes(generator.randbytes(2 * BLOCK) + blocks[2] + bytes(BLOCK))
    zeros, text = compressed_bytes(blocks[1]), compressed_bytes(blocks[3])
    assert zeros < 100
    assert compressed_changes(old, new) == BLOCK + zeros + text + len(blocks[4])


def test_ratios_of_a_tracked_source_are_within_one_run() -> None:
    """The median of the ratios, which is not the ratio of the medians."""
    seconds = {
        "rbd unchanged": (0.5, 0.7, 0.6),
        "rbd changed": (1.0, 4.0, 2.0),
        "rbd whole changed": (2.0, 40.0, 40.0),
        "rbd changes alone": (1.0, 1.0, 1.0),
        "export-diff rbd changed": (2.0, 1.0, 1.0),
        "export-diff rbd unchanged": (0.5, 0.7, 0.6),
    }
    samples = {name: [Sample(run, wall, 0, 0, 0) for run, wall in enumerate(walls)] for name, walls in seconds.items()}
    results = Results(samples)
    lines = ratios(results, "rbd", ["export-diff"])
    assert results.figures["tracked"] == {
        "rbd whole": 0.1,
        "rbd changes": 2.0,
        "rbd unchanged": 0.6,
        "rbd export-diff changed": 2.0,
        "rbd export-diff unchanged": 1.0,
    }
    assert ["missed" in line for line in lines] == [True, False, False, False, False]
