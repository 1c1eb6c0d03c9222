"""The page of a report, and how pictures get into it: all in one file, nothing to be fetched, no script."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

_WIDE = 640  # a wider picture is not shrunk to a phone's width

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 76rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: .4rem 0; }}
h2 {{ font-size: 1.25rem; margin: 2.2rem 0 .3rem; border-top: 1px solid #ddd; padding-top: 1rem; }}
h3 {{ font-size: 1rem; margin: 1.2rem 0 .3rem; }}
p {{ max-width: 46rem; margin: .3rem 0 .8rem; }}
.soft {{ color: #595959; }}
.numbers {{ display: flex; flex-wrap: wrap; gap: .6rem 2rem; padding: 0; margin: 1rem 0; }}
.numbers div {{ display: flex; flex-direction: column; }}
.numbers dt {{ font-size: .85rem; color: #595959; }}
.numbers dd {{ font-size: 1.5rem; margin: 0; }}
.row {{ display: flex; gap: 8px; padding-bottom: .8rem; overflow-x: auto; }}
figure {{ margin: 0; }}
.row figure {{ flex: none; width: 92px; font-size: .75rem; line-height: 1.25; text-align: center; }}
.row img {{ display: block; box-sizing: border-box; width: 100%; height: auto; border: 4px solid; }}
.row .query {{ position: sticky; left: 0; padding-right: 12px; background: #fff; }}
.heat {{ flex-wrap: wrap; gap: 8px 2px; }}
.heat .pair {{ width: 250px; margin-right: 12px; }}
.heat img {{ border: 0; }}
.charts {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.chart {{ display: block; max-width: 100%; height: auto; }}
.scroll .chart {{ max-width: none; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: .6rem 0; }}
th, td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal; }}
th {{ color: #595959; font-size: .85rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(heading: str, sections: Iterable[str]) -> str:
    """Return the whole page: `sections` are HTML, empty ones are left out; `heading` is its title as plain text."""
    return _PAGE.format(title=text(heading), body="\n".join(filter(None, sections)))


def figure(image: Image.Image, caption: str, kind: str, colour: str) -> str:
    """Return an image, as a JPEG in the page, with the lines of its caption.

    Args:
        image: RGB.
        caption: Plain text; its lines stay lines.
        kind: Class of the figure.
        colour: Of the frame.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    lines = "<br>".join(text(line) for line in caption.splitlines())
    alt = text(caption.replace("\n", ", "))
    return (
        f'<figure class={kind}><img src="{_uri("jpeg", buffer.getvalue())}" alt="{alt}" width={image.width} '
        f'height={image.height} style="border-color:{colour}"><figcaption>{lines}</figcaption></figure>'
    )


def chart(path: Path, alt: str) -> str:
    """Return a PNG at half its pixels, sharp on fine screens; a phone shrinks it, or scrolls it if it is wide."""
    with Image.open(path) as image:
        width, height = image.width // 2, image.height // 2
    tag = f'<img class=chart src="{_uri("png", path.read_bytes())}" alt="{text(alt)}" width={width} height={height}>'
    return tag if width <= _WIDE else f"<div class=scroll tabindex=0>{tag}</div>"


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def text(plain: str) -> str:
    """Return plain text as HTML."""
    return html.escape(plain)
