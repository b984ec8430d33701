"""`quantagent data`: bars imported, fetched, exported and listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ui.cli import data_quality
from ui.cli.output import (
    AsJson,
    EndOption,
    StartOption,
    TimeframeOption,
    err,
    parse_instant,
    parse_symbol,
    print_json,
    print_rows,
    report_errors,
    show_progress,
)

if TYPE_CHECKING:
    from engine.core.market import Instrument
    from engine.data import Added, BarCatalogue, RefusedRow

ProviderOption = Annotated[
    str,
    typer.Option(
        "--provider",
        envvar="QUANTAGENT_PROVIDER",
        metavar="NAME",
        help="yahoo, synthetic, sample, folder:PATH, or an installed one.",
    ),
]

app = typer.Typer(name="data", help="Bars: import, fetch, export, gaps and corrections.", no_args_is_help=True)
app.command("check")(data_quality.data_check)
app.command("gaps")(data_quality.data_gaps)
app.command("revisions")(data_quality.data_revisions)


@app.command("sample")
def data_sample(as_json: AsJson = False) -> None:
    """Load the bundled sample: BTC-USD and EUR-USD, hourly, July to December 2017."""
    from ui.app import open_app
    from ui.services.data import import_sample

    with report_errors(), open_app() as opened:
        new = import_sample(opened)
        if as_json:
            print_json(new=new)
        else:
            err.print(f"The sample is stored: {new:,} bars are new.")


@app.command("import")
def data_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet; the time of a row is its open.")],
    symbol: Annotated[str, typer.Option("--symbol", metavar="A", help="Symbol of the bars, like BTC-USD.")],
    timeframe: TimeframeOption = "1h",
    zone: Annotated[str | None, typer.Option("--zone", help="Time zone of times without an offset, like UTC.")] = None,
    accept_valid: Annotated[
        bool, typer.Option("--accept-valid", help="Store the valid bars and record the refused ones with reasons.")
    ] = False,
    correct: Annotated[
        bool, typer.Option("--correct", help="Store values that differ from stored ones as revisions.")
    ] = False,
    quote: Annotated[
        str | None, typer.Option(help="Currency of the prices, for a symbol that is not built in.")
    ] = None,
    decimals: Annotated[int | None, typer.Option(help="Displayed decimals of the prices.", min=0, max=12)] = None,
    step: Annotated[str | None, typer.Option(help="Smallest tradable quantity.")] = None,
    multiplier: Annotated[str | None, typer.Option(help="Money per unit of price and quantity, 1000 for CL=F.")] = None,
    tick: Annotated[str | None, typer.Option(help="Smallest difference between two prices.")] = None,
    calendar: Annotated[str | None, typer.Option(help="24/7, FX, XNYS, CME or NYMEX.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import a file of bars; if any bar is refused, import nothing (see --accept-valid)."""
    from engine import clock
    from engine.core.market import Timeframe
    from engine.data.files import read_bars
    from ui.app import open_app

    fields = {"quote": quote, "price_decimals": decimals, "calendar": calendar}
    amounts = {"quantity_step": step, "multiplier": multiplier, "tick": tick}
    with report_errors(), open_app() as opened, show_progress() as on_progress:
        frame, learned_at = Timeframe.parse(timeframe), clock.now()
        instrument = _instrument(opened.catalogue, parse_symbol(symbol), fields, amounts)
        on_progress("rows read", 0, 1)
        checked = read_bars(file, instrument, frame, zone=zone, learned_at=learned_at, accept_valid=accept_valid)
        on_progress("rows read", 1, 1)
        bars = checked.frame.height
        on_progress("bars", 0, bars)
        added = opened.catalogue.add_validated(
            checked, source=file.name, learned_at=learned_at, actor=opened.settings.actor, correct=correct
        )
        on_progress("bars", bars, bars)
        if any(value is not None for value in (*fields.values(), *amounts.values())):
            opened.catalogue.save_instrument(instrument)
    flagged = checked.frame.filter(checked.frame["flags"] != "").height
    if as_json:
        refused = [row._asdict() for row in checked.refused]
        print_json(symbol=symbol, **added._asdict(), flagged=flagged, refused=refused)
        return
    err.print(f"{symbol} {frame}: {_describe_added(added)}.")
    if flagged:
        err.print(f"{flagged:,} bars are flagged: `quantagent data check {symbol}` lists them.")
    _show_refused(checked.refused)


def _describe_added(added: Added) -> str:
    corrected = f", {added.corrected:,} are corrected" if added.corrected else ""
    return f"{added.new:,} bars are new, {added.known:,} were known{corrected}"


def _show_refused(refused: Sequence[RefusedRow]) -> None:
    if refused:
        print_rows(f"{len(refused)} rows refused", [r._asdict() for r in refused[:20]], ["row", "line", "reason"])


@app.command("fetch")
def data_fetch(
    symbols: Annotated[
        list[str], typer.Argument(metavar="SYMBOL...", help="Like SPX, or with its own provider synthetic:BTC-USD.")
    ],
    timeframe: TimeframeOption = "1h",
    start: StartOption = None,
    end: EndOption = None,
    provider: ProviderOption = "yahoo",
    refetch: Annotated[
        bool, typer.Option("--again", help="Also fetch stored bars, and store changes as revisions.")
    ] = False,
    calendar: Annotated[
        str | None, typer.Option(help="24/7, FX, XNYS, CME or NYMEX, for new symbols; stored with them.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch only the missing bars; after an interruption, continue."""
    from engine.core.market import Timeframe
    from ui.app import open_app
    from ui.services.data import fetch_missing, resolve_symbol

    results: list[dict[str, object]] = []
    from ui.formats import format_count

    with report_errors(), open_app() as opened:
        frame, since, until = Timeframe.parse(timeframe), parse_instant(start), parse_instant(end)
        for each in [resolve_symbol(opened, symbol, provider) for symbol in symbols]:
            instrument = _instrument(opened.catalogue, each.symbol, {"calendar": calendar}, {})
            if instrument != opened.catalogue.instrument(each.symbol):
                opened.catalogue.save_instrument(instrument)
            with show_progress() as on_progress:
                fetched = fetch_missing(opened, each, frame, since, until, refetch=refetch, on_progress=on_progress)
            synthetic_mark = " (generated)" if each.provider.synthetic else ""
            corrected = f", {fetched.corrected:,} are corrected" if fetched.corrected else ""
            request_text = (
                "nothing was missing"
                if fetched.calls == 0
                else f"{format_count(fetched.calls, 'request')}, {fetched.new:,} bars are new"
            )
            source_text = f", made from {fetched.made_of} bars" if fetched.made_of else ""
            err.print(
                f"{each.symbol} {frame} from {each.provider.name}{synthetic_mark}: "
                f"{request_text}{corrected}{source_text}."
            )
            if fetched.beyond:
                err.print(
                    f"{fetched.beyond:,} missing bars are before the first one of {each.provider.name}: import them "
                    f"from a file."
                )
            if not as_json:
                _show_refused(fetched.refused)
            refused = [row._asdict() for row in fetched.refused]
            named = {"symbol": each.symbol, "provider": each.provider.name, "synthetic": each.provider.synthetic}
            results.append({**named, **fetched._asdict(), "refused": refused})
    if as_json:
        print_json(fetched=results)


@app.command("export")
def data_export(
    symbol: Annotated[str, typer.Argument(metavar="SYMBOL", help="Symbol of the bars, like BTC-USD.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new .csv or .parquet file.")],
    timeframe: TimeframeOption = "1h",
    start: StartOption = None,
    end: EndOption = None,
    known_at: Annotated[
        str | None,
        typer.Option("--known-at", metavar="TIME", help="Bars as known then, without later bars and corrections."),
    ] = None,
) -> None:
    """Write the exact stored bars to a file that `data import` accepts."""
    import polars as pl

    from engine.core.errors import BadInput
    from engine.core.market import Timeframe
    from engine.data.encoding import NUMBERS
    from engine.data.validation import exact_frame
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        if file.suffix not in (".csv", ".parquet"):
            raise BadInput(f"{file} is neither a .csv nor a .parquet file: use one of these suffixes.")
        if file.exists():
            raise BadInput(f"{file} exists: name another file, or remove it.")
        bars = opened.catalogue.as_known_at(parse_instant(known_at))
        stored = bars.bars(parse_symbol(symbol), Timeframe.parse(timeframe), parse_instant(start), parse_instant(end))
        frame = exact_frame(stored)
        part = file.with_name(f".{file.name}.part")
        if file.suffix == ".csv":
            texts = {name: [f"{getattr(bar, name):f}" for bar in stored] for name in NUMBERS}
            frame.with_columns(**{name: pl.Series(text) for name, text in texts.items()}).write_csv(
                part, datetime_format="%Y-%m-%dT%H:%M:%SZ"
            )
        else:
            frame.write_parquet(part)
        part.replace(file)
        err.print(f"{file}: {frame.height:,} {timeframe} bars of {symbol}.")


def _instrument(
    bars: BarCatalogue, symbol: str, fields: Mapping[str, object], amounts: Mapping[str, str | None]
) -> Instrument:
    import msgspec

    from engine.core.errors import BadInput
    from engine.core.market import Calendar, Instrument
    from engine.core.money import exact

    if fields.get("calendar") not in (None, *get_args(Calendar)):
        raise BadInput(f"calendar {fields['calendar']!r} is unknown: use one of {', '.join(get_args(Calendar))}.")
    try:
        given = {**fields, **{name: exact(text) for name, text in amounts.items() if text is not None}}
        changes = {name: value for name, value in given.items() if value is not None}
        plain = msgspec.to_builtins(bars.instrument(symbol)) | msgspec.to_builtins(changes)
        return msgspec.convert(plain, Instrument)
    except ValueError as error:
        raise BadInput(f"the instrument of {symbol} cannot be used: {error}.") from None


@app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the series in the catalogue."""
    from ui.app import open_app

    with report_errors(), open_app() as opened:
        rows = [
            {"symbol": h.symbol, "timeframe": h.timeframe, "first": h.first, "last": h.last, "bars": h.count}
            for h in opened.catalogue.list_series()
        ]
        if as_json:
            print_json(bars=rows)
        elif rows:
            print_rows("Bars (UTC)", rows, ["symbol", "timeframe", "first", "last", "bars"])
        else:
            err.print("The catalogue is empty: `quantagent data sample` loads the bundled bars.")
