"""How does a table of speeds look as a chart?

One rule: one SVG file without scripts, fonts or colours of its own: it can be read on a light and on a dark page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

_BAR, _ROW, _BARS = 14, 44, 520
_CHARACTER = 7.2  # of 13 px sans-serif, on the broad side: a label that is cut off names nothing
_STYLE = "text{font:13px sans-serif;fill:currentColor}.prompt{fill:#4477aa}.text{fill:#ee7733}"


def bars(rows: Sequence[tuple[str, float, float]]) -> str:
    """Draw one row for each (label, prompt tokens a second, text tokens a second); each kind has its own scale."""
    height = _ROW * len(rows) + 50
    left = max(160, round(16 + _CHARACTER * max((len(row[0]) for row in rows), default=0)))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + _BARS} {height}" role="img">',
        "<title>Tokens a second</title>",
        f"<style>{_STYLE}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}}}</style>",
        f'<rect class="prompt" x="{left}" y="10" width="12" height="12"/>',
        f'<text x="{left + 18}" y="21">prompt tokens a second</text>',
        f'<rect class="text" x="{left + 180}" y="10" width="12" height="12"/>',
        f'<text x="{left + 198}" y="21">text tokens a second (on a scale of its own)</text>',
    ]
    most = [max((row[1:][kind] for row in rows), default=1.0) for kind in (0, 1)]
    for place, (label, *speeds) in enumerate(rows):
        top = 40 + _ROW * place
        lines.append(f'<text x="{left - 8}" y="{top + 19}" text-anchor="end">{escape(label)}</text>')
        for kind, speed in enumerate(speeds):
            long = (_BARS - 80) * speed / most[kind]
            y, name = top + kind * (_BAR + 2), ("prompt", "text")[kind]
            lines.append(f'<rect class="{name}" x="{left}" y="{y}" width="{long:.1f}" height="{_BAR}"/>')
            lines.append(f'<text x="{left + long + 6:.1f}" y="{y + 12}">{speed:,.1f}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
