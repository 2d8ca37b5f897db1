"""Peaks per day as a picture: SVG, drawn here, because it is text that any browser, wiki and mail shows.

One panel for each product: a bar a day, as high as that day's peak, and the seats bought as a dashed line. A day
without a bar is one in which nothing of the product was in use. PNG would need a drawing library, and none is among
what this project depends on.

Pure: values in, bytes out. No script and nothing from elsewhere is in the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Final
from xml.etree import ElementTree as ET

from lls.issuer.views import Day

WIDTH, PANEL = 800, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 30
_TICKS: Final = 4
_MOST_DATES: Final = 8
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#333}.title{font-size:14px;font-weight:bold}.bar{fill:#3b6ea5}"
    ".over{fill:#b5482f}.limit{stroke:#333;stroke-dasharray:5 3;fill:none}.grid{stroke:#ddd}"
)


def peaks_svg(days: Iterable[Day], *, title: str, since: date, until: date) -> bytes:
    """The picture of the days from ``since`` to ``until``, both included."""
    by_product: dict[str, list[Day]] = {}
    for day in days:
        if since <= day.day <= until:
            by_product.setdefault(day.product, []).append(day)
    height = PANEL * max(1, len(by_product)) + _TOP
    svg = ET.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height}", "width": str(WIDTH),
         "height": str(height), "role": "img"},
    )  # fmt: skip
    heading = _printable(f"{title}: most seats in use per day, {since} to {until} (UTC)")
    ET.SubElement(svg, "title").text = heading
    ET.SubElement(svg, "style").text = _STYLE
    ET.SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "#fff"})
    _text(svg, _LEFT, 22, heading, kind="title")
    if not by_product:
        _text(svg, _LEFT, _TOP + 40, "Nothing was in use.")
    for place, (product, own) in enumerate(sorted(by_product.items())):
        _panel(svg, product, own, top=_TOP + place * PANEL, since=since, until=until)
    picture: bytes = ET.tostring(svg, encoding="utf-8", xml_declaration=True)
    return picture


def _panel(svg: ET.Element, product: str, days: Sequence[Day], *, top: int, since: date, until: date) -> None:
    highest = _nice(max(max(day.peak, day.seats or 0) for day in days))
    count = (until - since).days + 1
    step, room = (WIDTH - _LEFT - _RIGHT) / count, PANEL - _TOP - _BOTTOM
    base = top + PANEL - _BOTTOM

    def y(value: float) -> float:
        return base - room * value / highest

    def x(day: date) -> float:
        return _LEFT + (day - since).days * step

    _text(svg, _LEFT, top + 22, _printable(product))
    for value in sorted({highest * tick // _TICKS for tick in range(_TICKS + 1)}):
        _line(svg, _LEFT, y(value), WIDTH - _RIGHT, y(value), kind="grid")
        _text(svg, _LEFT - 8, y(value) + 4, str(value), anchor="end")
    for day in days:
        _bars(svg, day, left=x(day.day), width=max(step * 0.8, 0.5), base=base, y=y(day.peak), limit=y(day.seats or 0))
        if day.seats is not None:
            _line(svg, x(day.day), y(day.seats), x(day.day) + step, y(day.seats), kind="limit")
    for number in range(0, count, -(-count // _MOST_DATES)):
        at = since + timedelta(days=number)
        _text(svg, x(at), base + 18, at.isoformat())


def _bars(svg: ET.Element, day: Day, *, left: float, width: float, base: float, y: float, limit: float) -> None:
    """A bar; what is above the seats bought in another colour."""
    over = day.seats is not None and day.peak > day.seats
    told = f"{day.day}: {day.peak}" + ("" if day.seats is None else f" of {day.seats}")
    parts = [(limit, base, "bar"), (y, limit, "over")] if over else [(y, base, "bar")]
    for upper, lower, kind in parts:
        if lower > upper:
            bar = _rect(svg, left, upper, width, lower - upper, kind=kind)
            ET.SubElement(bar, "title").text = told


def _nice(highest: int) -> int:
    """The next 1, 2, 4 or 8 times a power of ten, so that a quarter of it is a round number."""
    size = 1
    while True:
        for factor in (1, 2, 4, 8):
            if factor * size >= max(highest, _TICKS):
                return factor * size
        size *= 10


def _printable(text: str) -> str:
    # XML has no place for control characters, escaped or not.
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _text(svg: ET.Element, x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    ET.SubElement(svg, "text", place | ({"class": kind} if kind else {})).text = text


def _line(svg: ET.Element, x1: float, y1: float, x2: float, y2: float, *, kind: str) -> None:
    ET.SubElement(
        svg, "line", {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}", "class": kind}
    )


def _rect(svg: ET.Element, x: float, y: float, width: float, height: float, *, kind: str) -> ET.Element:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}", "class": kind}
    return ET.SubElement(svg, "rect", place)
