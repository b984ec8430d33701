"""Charts of the last bars of a window as PNG images, for models with vision.

A chart is a function of its bars: the same bars give the same bytes in every process and thread. Symbol and dates are
omitted, because a model may remember what happened then. Bars are numbered as in `analysis.charting.chart_text`: 0 is
the last one, -1 the one before. `analysis.charting.chart_store` stores the images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from math import ceil, floor, isnan
from threading import Lock
from typing import TYPE_CHECKING, Literal, NamedTuple

import polars as pl

from analysis.charting.indicators import Windows
from analysis.charting.trend import FIT_BARS, resistance_lines, support_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

PATTERN_BARS, TREND_BARS = 40, FIT_BARS
WIDTH, HEIGHT = 800, 450
THUMBNAIL_PART = 4  # A thumbnail has a quarter of the width and height.

# All colors belong to the palette of 216 colors of the stored images.
UP, DOWN = "#009966", "#cc3333"
SUPPORT, RESISTANCE = "#0033ff", "#ff0000"
INK, PALE, LAST_CLOSE = "#333333", "#cccccc", "#666666"

_LEFT, _TOP, _BOTTOM = 10, 428, 26  # Edges of the plot, in pixels from the lower left corner.
_LETTER, _LETTER_HEIGHT = 7.2, 15  # Size of one letter of the price axis.
_MARGIN = 0.05  # Share of the price range left free above and below.
_LINES_REACH = 0.25  # Share of the price range by which lines may extend beyond it before they are clipped.
_FLAT = 1e-4  # A range of prices below this share of the price is a flat market.
_LABELS = 7


@dataclass(frozen=True, slots=True)
class ChartLine:
    """A straight line over the bars: its price at the last bar and its change per bar."""

    colour: str
    name: str
    level: float
    slope: float

    def at(self, bar: float) -> float:
        return self.level + self.slope * bar


def pattern_chart(frame: pl.DataFrame) -> bytes:
    """Return a PNG of the last 40 bars of a frame (fewer if fewer exist) as candles."""
    return _png(_Chart.of(frame, PATTERN_BARS, []))


def trend_chart(frame: pl.DataFrame) -> bytes:
    """Return a PNG of the last 50 bars with the lines of `analysis.charting.trend`: support blue, resistance red.

    Lines are omitted if unknown, that is with fewer than 50 bars.
    """
    windows = Windows.of(frame, [frame.height - 1])
    fitted = ((SUPPORT, "support", support_lines(windows)), (RESISTANCE, "resistance", resistance_lines(windows)))
    lines = [ChartLine(colour, name, float(line.level[0]), float(line.slope[0])) for colour, name, line in fitted]
    return _png(_Chart.of(frame, TREND_BARS, [line for line in lines if not isnan(line.level)]))


def thumbnail(png: bytes) -> bytes:
    """Return a chart at a quarter of its width and height, as a PNG."""
    from PIL import Image

    with Image.open(BytesIO(png)) as image:
        return _encode_png(image.convert("RGB").reduce(THUMBNAIL_PART))


class Candle(NamedTuple):
    open: float
    high: float
    low: float
    close: float


class Tick(NamedTuple):
    price: float
    label: str


class Tag(NamedTuple):
    """A price label on a colored background; its height may be slightly below that of the price."""

    height: int
    label: str
    colour: str


@dataclass(frozen=True, slots=True)
class _Chart:
    """Content and scale of a chart; x and y are pixels from the lower left corner."""

    candles: list[Candle]
    lines: list[ChartLine]
    slots: int
    bottom: float
    top: float
    ticks: list[Tick]
    decimals: int

    @staticmethod
    def of(frame: pl.DataFrame, slots: int, lines: list[ChartLine]) -> _Chart:
        candles = [Candle(*row) for row in frame.select("open", "high", "low", "close").tail(slots).iter_rows()]
        bottom, top = _range(candles, lines)
        ticks, decimals = _ticks(bottom, top)
        return _Chart(candles, lines, slots, bottom, top, ticks, decimals)

    @property
    def right(self) -> int:
        """The x of the right edge of the plot, where the price axis begins."""
        letters = max(len(self.priced(price)) for price in (self.bottom, self.top))
        return WIDTH - ceil((letters + 2) * _LETTER)

    def priced(self, price: float) -> str:
        return f"{price:,.{self.decimals}f}"

    def x(self, bar: int) -> int:
        """Return the x of the middle of a bar; 0 is the last one, -1 the one before."""
        return _LEFT + floor((self.slots - 0.5 + bar) * (self.right - _LEFT) / self.slots)

    def y(self, price: float) -> float:
        return _BOTTOM + (price - self.bottom) / (self.top - self.bottom) * (_TOP - _BOTTOM)

    @property
    def tags(self) -> list[Tag]:
        """Labels of the last close and the line levels, stacked where they would overlap."""
        levels = [(line.level, line.colour) for line in self.lines if line.level > 0]
        tags: list[Tag] = []
        ceiling = _TOP
        for price, colour in sorted([*levels, (self.candles[-1].close, LAST_CLOSE)], reverse=True):
            height = min(max(round(self.y(price)), _BOTTOM), ceiling)
            tags.append(Tag(height, self.priced(price), colour))
            ceiling = height - _LETTER_HEIGHT - 2
        return tags

    @property
    def half_body(self) -> int:
        """Half the width of a candle's body."""
        return max(2, floor(0.36 * (self.right - _LEFT) / self.slots))


def _range(candles: list[Candle], lines: list[ChartLine]) -> tuple[float, float]:
    low, high = min(candle.low for candle in candles), max(candle.high for candle in candles)
    span = max(high - low, abs(high) * _FLAT) or 1.0
    middle = (low + high) / 2
    low, high = middle - span / 2, middle + span / 2
    ends = [line.at(bar) for line in lines for bar in (1 - len(candles), 0)]
    reach = _LINES_REACH * span
    # Prices are never below zero, even if a steep line is.
    low, high = max(min([low, *ends]), low - reach, min(low, 0)), min(max([high, *ends]), high + reach)
    margin = _MARGIN * (high - low)
    return low - margin, high + margin


def _ticks(bottom: float, top: float) -> tuple[list[Tick], int]:
    """Return round prices between two prices, and the number of decimals for prices in that range."""
    # Formatting a float rounds correctly on every platform; a logarithm does not.
    digit, exponent = f"{(top - bottom) / _LABELS:.0e}".split("e")
    unit, power = next(unit for unit in (1, 2, 5, 10) if unit >= int(digit)), int(exponent)
    more, less, decimals = 10 ** max(power, 0), 10 ** max(-power, 0), max(-power, 0)
    step = unit * more / less
    prices = [n * unit * more / less for n in range(ceil(bottom / step), floor(top / step) + 1)]
    return [Tick(price, f"{price:,.{decimals}f}") for price in prices], decimals + 1 if decimals else 0


# matplotlib's settings are global: charts are drawn one at a time under the library's defaults, so that neither a
# user's file nor another module changes their bytes.
_drawing_lock = Lock()


def _png(chart: _Chart) -> bytes:
    with _drawing_lock:
        # matplotlib warns about a home folder without write access, which is irrelevant here.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import matplotlib

        defaults = dict(matplotlib.rcParamsDefault)
        del defaults["backend"]  # It would not be restored, and is not used here.
        with matplotlib.rc_context(defaults):  # pyright: ignore[reportUnknownMemberType] - half typed
            return _encode_png(_draw_chart(chart))


def _draw_chart(chart: _Chart) -> Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    # At 72 dots per inch a point is a pixel.
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, facecolor="white")
    for draw in (_draw_grid, _draw_candles, _draw_lines, _draw_tags):
        draw(figure, chart)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.frombytes("RGBA", (WIDTH, HEIGHT), bytes(canvas.buffer_rgba()))
    return image.convert("RGB").convert("P", palette=Image.Palette.WEB, dither=Image.Dither.NONE)


def _encode_png(image: Image) -> bytes:
    file = BytesIO()
    image.save(file, "png", compress_level=6)
    return file.getvalue()


def _draw_grid(figure: Figure, chart: _Chart) -> None:
    write = _writer(figure)
    heights = {round(chart.y(tick.price)): tick.label for tick in chart.ticks}
    for height, label in heights.items():
        if all(abs(height - tag.height) >= _LETTER_HEIGHT for tag in chart.tags):
            write(chart.right + 6, height, label, INK)
    places = {chart.x(-back): f"{-back}" for back in range(0, chart.slots, 10)}
    for place, label in places.items():
        write(place, _BOTTOM / 2, label, INK, "center")
    across = [_box(_LEFT, height, chart.right, height + 1) for height in heights]
    upwards = [_box(place, _BOTTOM, place + 1, _TOP) for place in places]
    _fill(figure, [*across, *upwards], [PALE])
    frame = [_box(_LEFT, _BOTTOM, chart.right, _BOTTOM + 1), _box(chart.right, _BOTTOM, chart.right + 1, _TOP)]
    _fill(figure, frame, [INK])


def _draw_candles(figure: Figure, chart: _Chart) -> None:
    boxes: list[Box] = []
    colours: list[str] = []
    for bar, candle in enumerate(chart.candles, 1 - len(chart.candles)):
        low, bottom, top, high = (round(chart.y(price)) for price in sorted(candle))
        x, half = chart.x(bar), chart.half_body
        boxes += [_box(x - 1, low, x + 1, high + 1), _box(x - half, bottom, x + half, max(top + 1, bottom + 2))]
        colours += [UP if candle.close >= candle.open else DOWN] * 2
    _fill(figure, boxes, colours)


def _draw_lines(figure: Figure, chart: _Chart) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import Bbox, IdentityTransform, TransformedBbox

    ends = (1 - len(chart.candles), 0)
    drawn = LineCollection(
        [[(chart.x(bar), chart.y(line.at(bar))) for bar in ends] for line in chart.lines],
        colors=[line.colour for line in chart.lines],
        linewidths=2.5,
        transform=IdentityTransform(),
    )
    drawn.set_clip_box(TransformedBbox(Bbox.from_extents(_LEFT, _BOTTOM, chart.right, _TOP), IdentityTransform()))
    figure.add_artist(drawn, clip=True)


def _draw_tags(figure: Figure, chart: _Chart) -> None:
    """Draw the last close and the line levels on the price axis, and the line names above the plot."""
    write = _writer(figure)
    for height, label, colour in chart.tags:
        _fill(figure, [_box(chart.right + 1, height - 8, WIDTH, height + 8)], [colour])
        write(chart.right + 6, height, label, "white")
    x = _LEFT + 4
    for line in chart.lines:
        write(x, (HEIGHT + _TOP) / 2, line.name, line.colour)
        x += ceil(len(line.name) * _LETTER) + 16


Box = list[tuple[float, float]]
"""Corners of a rectangle."""


def _box(left: float, bottom: float, right: float, top: float) -> Box:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _fill(figure: Figure, boxes: list[Box], colours: list[str]) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.transforms import IdentityTransform

    # Edges lie on whole pixels, so antialiasing would only blur them.
    filled = PolyCollection(
        boxes, facecolors=colours, edgecolors="none", linewidths=0, antialiaseds=False, transform=IdentityTransform()
    )
    figure.add_artist(filled)


def _writer(figure: Figure) -> Callable[..., None]:
    """Return a function that writes text on a figure, vertically centered."""
    from matplotlib import get_data_path
    from matplotlib.font_manager import FontProperties
    from matplotlib.text import Text
    from matplotlib.transforms import IdentityTransform

    # The library's own font file: an installed font of the same name may differ.
    font = FontProperties(fname=f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size=11)

    def write(x: float, y: float, words: str, colour: str, align: Literal["left", "center"] = "left") -> None:
        text = Text(
            x,
            y,
            words,
            color=colour,
            fontproperties=font,
            horizontalalignment=align,
            verticalalignment="center_baseline",
            parse_math=False,
            transform=IdentityTransform(),
        )
        figure.add_artist(text)

    return write
