"""The size-divergence plot: what a reader of the image can see of the points."""

from __future__ import annotations

import math
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from intact.plot import Point, size_against_divergence

SVG = "{http://www.w3.org/2000/svg}"


class Drawn(NamedTuple):
    models: list[tuple[float, float]]
    peers: list[tuple[float, float]]
    texts: list[ElementTree.Element]
    bars: list[ElementTree.Element]


def draw(*points: Point) -> Drawn:
    root = ElementTree.fromstring(size_against_divergence(points))
    models = [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in root.iter(f"{SVG}circle")]
    marks = [mark for mark in root.iter(f"{SVG}rect") if mark.get("class") == "peer"]
    peers = [(float(mark.attrib["x"]) + 4, float(mark.attrib["y"]) + 4) for mark in marks]
    bars = [line for line in root.iter(f"{SVG}line") if line.get("class") == "axis"][2:]
    return Drawn(models, peers, list(root.iter(f"{SVG}text")), bars)


def test_size_goes_right_and_divergence_up_by_its_logarithm() -> None:
    drawn = draw(
        Point("a", 20, 1e-3, None, peer=False), Point("b", 40, 1e-2, None, peer=True), Point("c", 60, 1e-1, None, False)
    )
    (ax, ay), (cx, cy) = drawn.models
    [(bx, by)] = drawn.peers
    assert bx - ax == pytest.approx(cx - bx, abs=0.2) and bx > ax + 20
    assert ay - by == pytest.approx(by - cy, abs=0.2) and ay > by + 20


def test_labels_are_the_names_as_they_are() -> None:
    texts = [text.text for text in draw(Point("<a & b>", 1, 0.1, None, peer=False)).texts]
    assert "<a & b>" in texts


@pytest.mark.parametrize("kld", [0.0, -1e-17, 1e-12, 1e-3, 1.0, 7.3])
@pytest.mark.parametrize("size", [1e-4, 0.99, 89.9, 90, 1999.9])
def test_any_point_is_inside_the_axes(size: float, kld: float) -> None:
    drawn = draw(Point("model", size, kld, 0.5, peer=False))
    [(x, y)] = drawn.models
    assert 76 <= x <= 570 and 20 <= y <= 388
    [bar] = drawn.bars
    assert 20 <= float(bar.attrib["y1"]) <= y <= float(bar.attrib["y2"]) <= 388


def test_an_error_bar_spans_a_standard_error_to_both_sides() -> None:
    drawn = draw(Point("a", 1, 0.02, 0.01, peer=False), Point("b", 1, 0.1, None, peer=False))
    [bar] = drawn.bars
    low, high = drawn.models[0][1], drawn.models[1][1]
    decade = (low - high) / math.log10(5)
    assert low - float(bar.attrib["y1"]) == pytest.approx(decade * math.log10(1.5), abs=0.2)
    assert float(bar.attrib["y2"]) - low == pytest.approx(decade * math.log10(2), abs=0.2)


def test_labels_of_neighbours_do_not_overlap() -> None:
    names = [f"model {i}" for i in range(4)]
    drawn = draw(*(Point(name, 50 + 0.2 * i, 0.01, None, peer=False) for i, name in enumerate(names)))
    places = {
        (round(float(text.attrib["x"]) / 40), float(text.attrib["y"])) for text in drawn.texts if text.text in names
    }
    assert len(places) == len(names)
