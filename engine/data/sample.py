"""Bundled sample: hourly bars of two symbols, July to December 2017 (origin: sample_data/README.md)."""

from __future__ import annotations

from pathlib import Path

from engine import clock
from engine.core.market import Symbol, Timeframe
from engine.data import Added, BarCatalogue
from engine.data.files import read_bars

SAMPLE_TIMEFRAME = Timeframe.H1
SAMPLE_FILES: dict[Symbol, Path] = {
    symbol: Path(__file__).parent / "sample_data" / f"{symbol}_1h.csv" for symbol in ("BTC-USD", "EUR-USD")
}


def load_sample(catalogue: BarCatalogue, *, actor: str = "") -> dict[Symbol, Added]:
    """Add the sample to a catalogue; repeating it changes nothing."""
    learned_at = clock.now()
    return {
        symbol: catalogue.add(
            symbol,
            SAMPLE_TIMEFRAME,
            read_bars(path, symbol, SAMPLE_TIMEFRAME).bars(),
            source=f"sample {path.name}",
            learned_at=learned_at,
            actor=actor,
        )
        for symbol, path in SAMPLE_FILES.items()
    }
