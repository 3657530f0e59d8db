"""Sphinx's settings of the site that `build.py` makes.

The pages need nothing from other servers: the theme brings its style and uses the system's fonts, and formulas become
MathML, which browsers show without a script.
"""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "DDPM Factory"
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "DDPM Factory"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False  # Sphinx would write "Copyright ©" without a name
# The marks that a benchmark writes between, and JSON with an ellipsis, are no fault.
suppress_warnings = ["misc.highlighting_failure"]


def _mathml(formula: str, *, as_block: bool) -> str:
    """Return MathML; docutils knows `\\ldots` only, and its parentheses grow with their content without `\\big`."""
    known = re.sub(r"\\[bB]igg?(?![A-Za-z])", "", formula).replace(r"\dots", r"\ldots")
    known = re.sub(
        r"\\(bar|hat|tilde)\s*(\\[A-Za-z]+|\w)", r"{\\\1{\2}}", known
    )  # else an index stands below the accent
    return tex2mathml(known, as_block=as_block)


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))


html_math_renderer = "mathml"
