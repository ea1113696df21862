"""How Sphinx makes the documentation: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import manyfit

DOCS = Path(__file__).resolve().parent

project = "Manyfit"
author = "the authors of Manyfit"
copyright = "2026, the authors of Manyfit"
version = release = manyfit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["pictures"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# The tour trains whenever the pages are made, so it cannot show what the code of another day has printed.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
suppress_warnings = ["mystnb.unknown_mime_type"]  # a figure is live in Jupyter, and a picture on a page

default_role = "code"  # what stands between single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "Manyfit"
html_static_path = ["_static"]
html_css_files = ["manyfit.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)]*)?\)")


def hand_out_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links of pages to files of the repository that are no pages: the site brings these files along.

    Raises nothing: a link that leads nowhere stays as it is, and is Sphinx's to complain about.
    """
    page = Path(app.env.doc2path(docname))

    def answer(link: re.Match[str]) -> str:
        path = (page.parent / link[2]).resolve()
        if path.is_relative_to(DOCS) or not path.exists():
            return link[0]
        return f"{{download}}`{link[1].replace('`', '')} <{link[2]}>`" if path.is_file() else link[1]

    if page.suffix == ".md":
        text = _LINK.sub(answer, source[0])
        # A place that a page marks by HTML is one that Sphinx does not see.
        for place in re.findall(r'<a (?:id|name)="([^"]+)">', text):
            text = re.sub(rf"\[([^\]]+)\]\(#{re.escape(place)}\)", rf'<a href="#{place}">\1</a>', text)
        source[0] = text


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", hand_out_files)
