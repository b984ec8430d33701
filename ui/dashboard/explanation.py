"""Explanation of one trade or signal: its chain, step by step, and the stored events behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from engine.audit.why import ChainLink
from ui.dashboard.causal_chain import ChainCheck, ChainStep, ReportFindings, build_chains, named_columns, raw_events
from ui.dashboard.views import plain
from ui.formats import DASH, format_time

# The signatures of tables name packages that are not installed, so that the type checker cannot resolve them.
drawing: Any = st


def show_chain(key: str, run_id: str, links: Sequence[ChainLink]) -> None:
    """Show several chains side by side; a single one in two parts, intent and outcome."""
    st.markdown(f"##### Why {plain(key)}")
    parts = named_columns(build_chains(links))
    for place, (name, steps) in zip(st.columns(len(parts)), parts, strict=True):
        with place:
            st.markdown(f"**{name}**")
            for step in steps:
                _show_step(step)
    with st.expander("Raw events"):
        st.caption("The same answer in a terminal")
        st.code(f"quantagent why {key} --run {run_id[:8]}", language=None)
        for event in raw_events(links):
            # As code, because Markdown would turn the @ of a stream into a mail address.
            st.markdown(f"**{plain(event.title)}** in `{event.stream}`  \n:gray[{plain(event.recorded)}]")
            st.code(event.payload, language="json", wrap_lines=True)


def _show_step(step: ChainStep) -> None:
    with st.container(border=True, gap="xsmall"):
        if not step.occurred:
            st.markdown(f":gray[**{step.name}** {plain(step.text)}]")
            return
        place = f"#{step.position}, " if step.position else ""
        with st.container(horizontal=True, horizontal_alignment="distribute"):
            st.markdown(f"**{step.name}** {plain(step.text)}", width="content")
            st.markdown(f":gray[{plain(place + format_time(step.at))} UTC]", width="content")
        if step.facts:
            st.markdown(" · ".join(f":gray[{plain(name)}] {plain(value)}" for name, value in step.facts))
        if step.reasons:
            st.markdown("\n".join(f"- {plain(reason)}" for reason in step.reasons))
        if step.checks:
            _show_checks(step.checks)
        if step.reports:
            _show_reports(step.reports)


def _show_checks(checks: Sequence[ChainCheck]) -> None:
    drawing.table(
        {
            "Check": [plain(check.rule) for check in checks],
            "Limit": [plain(check.limit) for check in checks],
            "Observed": [plain(check.observed) for check in checks],
            "": ["passed" if check.passed else ":orange-badge[failed]" for check in checks],
        },
        border="horizontal",
        hide_index=True,
    )


def _show_reports(reports: Sequence[ReportFindings]) -> None:
    with st.expander("Reports"):
        for report in reports:
            findings = " · ".join(
                f":gray[{plain(name)}] {plain(value)}" for name, value in report.findings if value != DASH
            )
            st.markdown(f"**{plain(report.name.capitalize())}**  \n{findings}")
