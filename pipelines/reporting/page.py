"""Render the page of a run. It is self-contained: its content policy forbids loading anything."""

from datetime import UTC, datetime
from html import escape

from pipelines.reporting import sections, tables
from pipelines.reporting.amounts import counted
from pipelines.reporting.content import Content
from pipelines.reporting.cost import cost_of
from pipelines.reporting.html import lines
from pipelines.reporting.style import CSS

# Forbids loading from any address, in case escaping fails somewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(content: Content, *, made: datetime) -> str:
    """The whole page.

    Args:
        content: from `content.gather`.
        made: when it is made, with its time zone.
    """
    costs = [cost_of(stage) for stage in content.stages]
    parts = [
        ("Stages", tables.stages_table(content.stages, costs)),
        ("Lineage", sections.lineage(content)),
        ("Curves", sections.curves(content.stages)),
        ("Metrics", tables.metrics_table(content.stages)),
        ("Configuration", tables.configuration(content.stages)),
        ("Cost", tables.cost_table(content.stages, costs)),
        ("Pictures", sections.pictures(content.stages)),
    ]
    shown = [(title, body) for title, body in parts if body]
    links = "".join(f"<a href='#{title.lower()}'>{title}</a>" for title, _ in shown)
    body = "".join(f"<h2 id={title.lower()}>{title}</h2>{body}" for title, body in shown)
    when = made.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(content.run)}: report</title><style>{CSS}</style></head><body>"
        f"<header><h1>{escape(content.run)}</h1><p class=sub>Recipe {escape(content.recipe)},"
        f" {counted(len(content.stages), 'stage attempt')}, report of {when}</p>"
        f"{lines(content.notes, 'bad')}<nav>{links}</nav></header><main>{body}</main>"
        "</body></html>\n"
    )
