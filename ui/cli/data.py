"""`quantagent data`: bars in, and what there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ui.cli.output import AsJson, Frame, err, errors_in_words, print_json, print_rows, progress

if TYPE_CHECKING:
    from engine.feed import Bars

app = typer.Typer(name="data", help="Bars: import files, load the sample, list what there is.", no_args_is_help=True)


@app.command("sample")
def sample(as_json: AsJson = False) -> None:
    """Load the bundled sample: BTC-USD and EUR-USD, hourly, July to December 2017."""
    from ui.compose import load_sample, open_app

    with errors_in_words(), open_app() as opened:
        new = load_sample(opened)
        if as_json:
            print_json(new=new)
        else:
            err.print(f"The sample is there: {new:,} bars are new.")


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet; each row is stamped with its open.")],
    symbol: Annotated[str, typer.Option("--symbol", metavar="A", help="Whose bars these are, like BTC-USD.")],
    timeframe: Frame = "1h",
    zone: Annotated[
        str | None, typer.Option("--zone", help="Where times without an offset were written, like UTC.")
    ] = None,
    accept_valid: Annotated[
        bool, typer.Option("--accept-valid", help="Store the good bars and record the refused ones with reasons.")
    ] = False,
    quote: Annotated[
        str | None, typer.Option(help="Currency of the prices, for a symbol that is not built in.")
    ] = None,
    decimals: Annotated[int | None, typer.Option(help="Decimals of the prices, for display.", min=0, max=12)] = None,
    step: Annotated[str | None, typer.Option(help="Smallest tradable quantity.")] = None,
    multiplier: Annotated[str | None, typer.Option(help="Money per unit of price and quantity, 1000 for CL=F.")] = None,
    tick: Annotated[str | None, typer.Option(help="Smallest difference between two prices.")] = None,
    calendar: Annotated[str | None, typer.Option(help="24/7, FX, XNYS or CME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import a file: all of it or, when any bar is refused, nothing (see --accept-valid)."""
    from engine import clock
    from engine.feed.files import read_bars
    from engine.market import Timeframe, check_symbol
    from ui.compose import open_app

    with errors_in_words():
        check_symbol(symbol)
        frame, learned_at = Timeframe.parse(timeframe), clock.now()
        read = read_bars(file, symbol, frame, zone=zone, learned_at=learned_at, accept_valid=accept_valid)
        with open_app() as opened, progress() as tell:
            tell("bars", 0, len(read.bars))
            added = opened.catalogue.add(
                symbol,
                frame,
                read.bars,
                source=file.name,
                learned_at=learned_at,
                actor=opened.settings.actor,
                refused=read.refused,
            )
            tell("bars", len(read.bars), len(read.bars))
            said = {"quote": quote, "price_decimals": decimals, "calendar": calendar}
            amounts = {"quantity_step": step, "multiplier": multiplier, "tick": tick}
            _save_instrument(opened.catalogue, symbol, said, amounts)
        if as_json:
            print_json(symbol=symbol, new=added.new, known=added.known, refused=[r._asdict() for r in read.refused])
            return
        err.print(f"{symbol} {frame}: {added.new:,} bars are new, {added.known:,} were known.")
        if read.refused:
            print_rows(
                f"{len(read.refused)} rows refused", [r._asdict() for r in read.refused[:20]], ["row", "line", "reason"]
            )


def _save_instrument(bars: Bars, symbol: str, said: Mapping[str, object], amounts: Mapping[str, str | None]) -> None:
    import msgspec

    from engine.errors import BadInput
    from engine.market import Instrument
    from engine.money import exact

    try:
        given = {**said, **{name: exact(text) for name, text in amounts.items() if text is not None}}
        changes = {name: value for name, value in given.items() if value is not None}
        if changes:
            plain = msgspec.to_builtins(bars.instrument(symbol)) | msgspec.to_builtins(changes)
            bars.save_instrument(msgspec.convert(plain, Instrument))
    except ValueError as error:
        raise BadInput(f"the instrument of {symbol} cannot be used: {error}.") from None


@app.command("list")
def listing(as_json: AsJson = False) -> None:
    """What the catalogue holds."""
    from ui.compose import open_app

    with errors_in_words(), open_app() as opened:
        rows = [
            {"symbol": h.symbol, "timeframe": h.timeframe, "first": h.first, "last": h.last, "bars": h.count}
            for h in opened.catalogue.listing()
        ]
        if as_json:
            print_json(bars=rows)
        elif rows:
            print_rows("Bars (UTC)", rows, ["symbol", "timeframe", "first", "last", "bars"])
        else:
            err.print("The catalogue is empty: `quantagent data sample` loads the bundled bars.")
