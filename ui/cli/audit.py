"""`quantagent audit`: commands that read the log alone."""

from __future__ import annotations

import typer

from ui.cli.audit_anchor import anchor, rotate_key
from ui.cli.audit_as_of import audit_as_of
from ui.cli.audit_bundle import bundle
from ui.cli.audit_diff import diff
from ui.cli.audit_export import export
from ui.cli.audit_recreate import audit_recreate
from ui.cli.audit_regenerate import regenerate
from ui.cli.audit_reproduce import reproduce
from ui.cli.audit_verify import verify

app = typer.Typer(name="audit", help="Audits from the log: past states, proofs, reproduced runs.", no_args_is_help=True)
app.command()(regenerate)
app.command()(diff)
app.command("as-of")(audit_as_of)
app.command("recreate")(audit_recreate)
app.command()(verify)
app.command()(anchor)
app.command()(rotate_key)
app.command()(export)
app.command()(bundle)
app.command()(reproduce)
