"""A page that opens offline in any browser: its texts as they are, its figures packed at its end.

page.js unpacks them. Without JavaScript all texts and tables can still be read.
"""

import base64
import functools
import json
import lzma
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

# as base64.b85encode has them, but for "<": in a script, that could end it
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~"
# raw LZMA makes plotly's 4.8 MB 1.4 MB of text, where deflate makes 1.8 MB
FILTERS = [{"id": lzma.FILTER_LZMA1, "preset": 6, "lc": 3, "lp": 0, "pb": 2}]
HERE = Path(__file__).parent


def render(
    template: Path, figures: dict[str, go.Figure], fragments: dict[str, str], **values
) -> str:
    """The page by a jinja template that extends page.html, in which every text is escaped.

    An element with data-figure=NAME gets that figure, one with data-fragment=NAME that safe HTML,
    whose scripts run. The page asks the network for nothing, and may not.
    """
    loader = jinja2.FileSystemLoader([template.parent, HERE])
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    drawn = {name: json.loads(figure.to_json()) for name, figure in figures.items()}
    values |= {"figures": figures, "fragments": fragments, "digits": DIGITS}
    values |= {"packed_plotly": plotly(), "packed": packed(json.dumps([drawn, fragments]))}
    return environment.get_template(template.name).render(values)


def packed(text: str) -> tuple[str, int]:
    """(the text in DIGITS, how many bytes it has when it is unpacked)."""
    raw = text.encode()
    small = lzma.compress(raw, lzma.FORMAT_RAW, filters=FILTERS)
    small += bytes(-len(small) % 4)
    return base64.b85encode(small).decode().replace("<", ","), len(raw)


@functools.cache  # it takes four seconds
def plotly() -> tuple[str, int]:
    """The installed plotly's script, packed."""
    return packed(get_plotlyjs())
