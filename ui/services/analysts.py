"""Analysts by name: rules, strategies, models, or a chain of them.

`NAME` is an installed analyst, `FILE.py:CLASS` the user's own, and any other name a model preset in the log. `A,B`
uses B where A fails.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from analysis import variants
from analysis.llm.presets import api_key
from analysis.variants import ModelVariant, Variant, VariantChain
from engine import clock
from engine.core.errors import BadInput, NotFound
from engine.core.events import Environment
from engine.core.money import ZERO, add, sub
from engine.store import Store
from ui.services import models

if TYPE_CHECKING:
    from analysis.graph.batch import GenerationProgress, Resources
    from analysis.graph.variant import Agents
    from ui.app import App

CHAIN_MAX = 5

AnyVariant = Variant | ModelVariant | VariantChain


def find_analyst(
    app: App,
    text: str | None,
    environment: Environment,
    *,
    budget: Decimal | None = None,
    progress: Callable[[GenerationProgress], None] = lambda progress: None,
) -> AnyVariant:
    """Return the variant or chain of a name; without a name the environment's active model, else the rules.

    Raise `BadInput` for unknown names.
    """
    names = [part.strip() for part in (text or default_analyst(app.store, environment)).split(",") if part.strip()]
    if not 1 <= len(names) <= CHAIN_MAX:
        raise BadInput(f"variant {text!r} has no name or more than {CHAIN_MAX}: the form is NAME or NAME,NAME.")
    members = [_find_member(app, name, budget, progress) for name in names]
    return members[0] if len(members) == 1 else VariantChain(tuple(members))


def default_analyst(store: Store, environment: Environment) -> str:
    """Return the active model of an environment as NAME@VERSION; `rules` if none is active."""
    try:
        selected = models.select_model(store, None, environment)
    except NotFound:
        return variants.RULES.name
    return f"{selected.name}@{selected.number}"


def _find_member(
    app: App, name: str, budget: Decimal | None, progress: Callable[[GenerationProgress], None]
) -> Variant | ModelVariant:
    if is_installed(name):
        return variants.find_variant(name)
    if name.partition("@")[0] not in models.model_versions(app.store):
        raise BadInput(
            f"variant {name!r} is unknown: not an installed analyst ({', '.join(variants.variant_names())}), a saved "
            "model or a strategy as FILE.py:CLASS.",
            "VARIANT_UNKNOWN",
        )
    return load_agents(app, name, budget, progress)


def missing_key(app: App, variant: str) -> str | None:
    """Return the environment variable of the key of a variant's model if it is not set; None for any other variant."""
    head = variant.partition("@")[0]
    saved = models.model_versions(app.store).get(head)
    if is_installed(variant) or not saved:
        return None
    preset = models.preset_of(saved[-1])
    return None if api_key(preset) else preset.key_env


def is_installed(name: str) -> bool:
    """Return True for the name of rules or a strategy, False for that of a model."""
    return ".py" in name or name.partition("@")[0] in variants.variant_names()


def load_agents(
    app: App,
    name: str,
    budget: Decimal | None = None,
    progress: Callable[[GenerationProgress], None] = lambda progress: None,
) -> Agents:
    """Return the agents of a model preset: `NAME`, `NAME@VERSION`, or the variant's own name, `NAME@DIGEST`."""
    from analysis.graph.variant import Agents, NamedPreset

    resources = open_resources(app)
    head, _, tail = name.partition("@")
    if len(tail) == 12:
        for version in reversed(models.model_versions(app.store).get(head, [])):
            presets = [NamedPreset(*each) for each in models.with_fallbacks(app.store, head, models.preset_of(version))]
            agents = Agents(presets, resources, budget=budget, progress=progress)
            if agents.name == name:
                return agents
        raise NotFound(
            f"no version of model {head} makes {name} any more: prompts, agents or graph have changed since. "
            "Its stored analyses stay.",
            "MODEL_CHANGED",
            model=head,
        )
    version = models.find_model(app.store, name)
    presets = [NamedPreset(*each) for each in models.with_fallbacks(app.store, head, models.preset_of(version))]
    return Agents(presets, resources, budget=budget, progress=progress)


def open_resources(app: App) -> Resources:
    """Return the resources of agents in this system."""
    from analysis.charting.chart_store import Artefacts
    from analysis.graph import checkpoints
    from analysis.graph.batch import Resources
    from analysis.llm.call_log import PostgresCallLog

    checkpoints.create_schema(app.access.owner, app.access.writer)
    calls = PostgresCallLog(app.dsn)
    return Resources(
        store=app.store,
        actor=app.settings.actor,
        calls=calls if app.exit_stack is None else app.exit_stack.enter_context(calls),
        now=clock.now,
        artefacts=Artefacts(app.home / "artefacts"),
        checkpoints=app.dsn,
    )


class SpendingTracker:
    """Running cost and failures of the generations of a command, as the label of its progress bar."""

    def __init__(self) -> None:
        self.cost, self.failed = ZERO, 0
        self._before: GenerationProgress | None = None

    def update(self, progress: GenerationProgress) -> None:
        """Add the progress of a generation; each symbol has its own, which counts from zero."""
        before, self._before = self._before, progress
        goes_on = before is not None and progress.done > before.done
        self.cost = add(self.cost, sub(progress.cost, before.cost) if before is not None and goes_on else progress.cost)
        self.failed += progress.failed - before.failed if before is not None and goes_on else progress.failed

    @property
    def label(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"analyses | ${self.cost:.4f}{failed}" if self.cost or self.failed else "analyses"
