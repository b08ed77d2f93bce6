"""A chart of speeds as plain SVG, readable on light and on dark pages: docs/speed.svg, from files of figures.

usage: /usr/bin/python3 benchmarks/chart.py FIGURES.json... [--output docs/speed.svg] [--caption TEXT]
           [--leave-out NAME...]

example: /usr/bin/python3 benchmarks/speed.py --size 1G --json words.json
         /usr/bin/python3 benchmarks/sorting.py --json sort.json
         /usr/bin/python3 benchmarks/chart.py words.json sort.json --caption "30 November 2026, commit 1234567, 2 cores"

Takes what speed.py, sorting.py and content.py write with --json. Each file is a panel: a bar for each contestant is the
median of its MB/s (2^20 bytes), the line across its end goes from the slowest run to the fastest, and what is ours is
in colour. It draws what was measured and nothing else: where and when is said below, by the file ("head") or --caption.

Exit code: 0; 2 where a file holds no figures, or nobody says where they are from.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

OUTPUT = Path(__file__).resolve().parents[1] / "docs/speed.svg"
WIDTH, LABELS, VALUES = 760, 230, 150  # of all, of the names on the left, of the figures on the right
LINE, BAR, GAP, MARGIN = 24, 14, 30, 16
OURS = ("lab", "ipdc-edge")  # names of ours begin so
OTHER_SIZE = ("mrjob local",)  # has a slice of the text: its time says nothing beside the others
STYLE = """\
text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #1f2328; }
.title { font-weight: 600; } .small { font-size: 11px; fill: #59636e; }
.ours { fill: #1a7f37; } .theirs { fill: #8c959f; } .spread { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; } .small { fill: #9198a1; }
  .ours { fill: #3fb950; } .theirs { fill: #656c76; } .spread { stroke: #f0f6fc; }
}"""


class NoFigures(Exception):
    """A file that a chart cannot be made of; the text says why."""


class Bar(NamedTuple):
    """One contestant: MB/s of each run."""

    name: str
    speeds: list[float]

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)


class Panel(NamedTuple):
    """What one file says."""

    title: str
    bars: list[Bar]
    head: str


def read(path: str, leave_out: tuple[str, ...] = ()) -> Panel:
    """NoFigures."""
    try:
        found = json.loads(Path(path).read_text())
        runs: dict[str, list[Any]] = found.get("times") or found["figures"]
        size = float(found["size"])
        walls = {name: [float(run["wall"] if isinstance(run, dict) else run[0]) for run in each]
                 for name, each in runs.items() if name not in (*OTHER_SIZE, *leave_out)}
        bars = [Bar(name, [size / 2**20 / wall for wall in each]) for name, each in walls.items() if each]
        title, head = str(found.get("title") or _title(runs, size)), str(found.get("head", ""))
    except OSError as error:
        raise NoFigures(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise NoFigures(f"{path}: no figures of speed.py, sorting.py or content.py ({error!r})") from None
    if not bars or size <= 0 or min(min(bar.speeds) for bar in bars) <= 0:
        raise NoFigures(f"{path}: no figures to draw")
    return Panel(title, sorted(bars, key=lambda bar: -median(bar.speeds)), head)


def _title(runs: dict[str, Any], size: float) -> str:
    what = "Sort" if "GNU sort" in runs else "Moving content" if "curl from nginx" in runs else "Word count"
    return f"{what}, {size / 2**20:.0f} MB"


def svg(panels: list[Panel], caption: str) -> str:
    """The whole picture."""
    lines, top = [], MARGIN
    for panel in panels:
        lines.append(_text(MARGIN, top + 13, f"{panel.title}: MB/s, more is better", "title"))
        top += LINE
        most = max(max(bar.speeds) for bar in panel.bars)
        scale = (WIDTH - LABELS - VALUES - MARGIN) / most
        for bar in panel.bars:
            lines += _bar(bar, top, scale)
            top += LINE
        top += GAP - LINE // 2
    for line in caption.split("\n"):
        lines.append(_text(MARGIN, top + 6, line, "small"))
        top += 16
    height = top + MARGIN // 2
    said = escape("; ".join(panel.title for panel in panels))
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img">', f"<title>{said}</title>", f"<style>{STYLE}</style>", *lines, "</svg>", ""])


def _bar(bar: Bar, top: int, scale: float) -> list[str]:
    middle, length = top + BAR // 2, median(bar.speeds) * scale
    least, most = (LABELS + speed * scale for speed in (min(bar.speeds), max(bar.speeds)))
    kind = "ours" if bar.ours else "theirs"
    found = [_text(LABELS - 8, middle + 5, bar.name, "", "end"),
             f'<rect class="{kind}" x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>']
    several = len(bar.speeds) > 1
    if several:
        found.append(f'<line class="spread" x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}"/>')
    words = f"{median(bar.speeds):.1f}"
    if several:
        words += f" ({min(bar.speeds):.1f} to {max(bar.speeds):.1f})"
    return [*found, _text(max(most, LABELS + length) + 8, middle + 5, words, "small")]


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def main(words: list[str] | None = None) -> int:
    """0 or 2, as said above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="+", metavar="FIGURES.json", help="each becomes a panel, in this order")
    parser.add_argument("--output", default=str(OUTPUT), metavar="FILE")
    parser.add_argument("--caption", default="", help="machine, commit and date, where the files do not say them")
    parser.add_argument("--leave-out", nargs="+", default=[], metavar="NAME", help="contestants that are not drawn")
    options = parser.parse_args(words)
    try:
        panels = [read(path, tuple(options.leave_out)) for path in options.figures]
        caption = options.caption or "\n".join(dict.fromkeys(panel.head for panel in panels if panel.head))
        if not caption:
            raise NoFigures("the files do not say where their figures are from: --caption 'DATE, commit ..., MACHINE'")
        Path(options.output).write_text(svg(panels, caption))
    except (NoFigures, OSError) as error:
        print(f"no chart: {error}", file=sys.stderr)
        return 2
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
