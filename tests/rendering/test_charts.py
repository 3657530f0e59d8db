"""Charts draw what is measured, also a single point, nothing, constants and losses over several powers of ten."""

import re
import xml.etree.ElementTree as ET

from ddpm.rendering.charts import HEIGHT, WIDTH, histogram, lines

LABELS = {"x_label": "images", "y_label": "loss"}


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]
        for line in re.findall(r'points="([^"]*)"', svg)
    ]


def test_higher_values_are_higher_and_a_power_of_ten_has_the_same_height_everywhere() -> None:
    (line,) = points(lines({"a": [(0, 1), (1, 10), (2, 100)]}, title="t", log_y=True, **LABELS))
    heights = [y for _, y in line[:3]]
    assert heights[0] > heights[1] > heights[2]
    assert abs((heights[0] - heights[1]) - (heights[1] - heights[2])) < 0.11


def test_a_single_point_and_a_constant_are_within_the_picture_and_no_point_is_said() -> None:
    for line in ([(128.0, 0.5)], [(1.0, 0.5), (2.0, 0.5)]):
        svg = lines({"a": line}, title="t", log_y=True, **LABELS)
        ET.fromstring(svg)
        assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points(svg)[0])
        assert ("point" in re.findall(r'class="([^"]*series[^"]*)"', svg)[0]) == (len(line) == 1)
    assert "nothing was recorded" in lines({"a": []}, title="t", **LABELS)


def test_a_long_curve_is_thinned_and_keeps_its_end() -> None:
    (line,) = points(lines({"a": [(float(k), k + 1.0) for k in range(100_000)]}, title="t", **LABELS))
    assert len(line) < 500
    assert line[-1][0] > WIDTH - 20


def test_bars_are_as_high_as_their_counts_and_limits_are_marked() -> None:
    svg = histogram([1, 2, 0], [0, 10, 20, 30], title="<b>", x_label="x", limits=(5, 99))
    ET.fromstring(svg)
    heights = [float(h) for h in re.findall(r'class="bar"[^>]* height="([\d.]+)"', svg)]
    assert heights[1] == 2 * heights[0]
    assert heights[2] == 0
    assert svg.count('class="limit"') == 1
    assert "<b>" not in svg
