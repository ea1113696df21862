"""The scripts that draw charts in a browser, and pictures where there is none: the extra `manyfit[report]`."""

from __future__ import annotations

import contextlib
import functools
import html
import importlib
import json
from collections.abc import Mapping
from typing import Any

from manyfit.core.files import cache_folder, replaced

_NAMES = {"jinja2": "jinja2", "vl_convert": "vl-convert-python"}


def extra(module: str) -> Any:
    """A package of the extra.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(
            f"Reports and pictures need {_NAMES[module]}, which is not installed. Type pip install manyfit[report]; "
            "manyfit show and tuner.results() do without."
        ) from None


@functools.cache
def scripts_of_vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script of 900 kB; it gives the page `vegaEmbed`, `vega` and `vegaLite`."""
    # The package puts it together anew each time, which takes two seconds: more than all that is drawn.
    package = extra("vl_convert")
    folder = cache_folder("report")
    kept = None if folder is None else folder / f"vega-{package.__version__}.js"
    script = ""
    if kept is not None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            script = kept.read_text(encoding="utf-8")
    if not script:
        script = str(package.javascript_bundle())
        if kept is not None:
            with contextlib.suppress(OSError), replaced(kept, is_shared=True) as partial:
                partial.write_text(script, encoding="utf-8", newline="")
    assert "</script" not in script and "<!--" not in script, "it would end its own element"
    return script


def svg(spec: Mapping[str, object]) -> str:
    """A chart as SVG."""
    return str(extra("vl_convert").vegalite_to_svg(json.dumps(spec)))


def png(spec: Mapping[str, object]) -> bytes:
    """A chart as PNG on white, two pixels for each of its points."""
    on_white = {**spec, "background": "white"}
    return bytes(extra("vl_convert").vegalite_to_png(json.dumps(on_white), scale=2))


def html_page(spec: Mapping[str, object]) -> str:
    """A chart as an HTML file that needs no network."""
    told = html.escape(str(spec.get("description", "")))
    # "<" could end the element; JSON reads the same.
    data = json.dumps(spec).replace("<", "\\u003c")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{told}</title>'
        '<meta name="color-scheme" content="light dark"></head><body><div id="chart"></div>'
        f"<script>{scripts_of_vega()}</script><script>vegaEmbed('#chart', {data}, {{ast: true}})</script></body></html>"
    )
