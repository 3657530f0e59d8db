"""Render the templates of HTML pages.

Every value is escaped for HTML, and control characters, line breaks and characters that reverse the reading direction
are shown as escapes, since names of files and classes come from outside. `page.html` here is the frame of all pages:
its styles fit a phone, dark screens and paper.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import on_one_line

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_HERE = Path(__file__).parent


def render(template: Path, **values: Any) -> "Markup":
    """Return the rendered template. Raises jinja2.UndefinedError if it uses a value that is not given."""
    from markupsafe import Markup

    return Markup(_environment(template.parent).get_template(template.name).render(values))


def fragment(name: str, **values: Any) -> "Markup":
    """Return a rendered template of this folder, such as a chart."""
    return render(_HERE / name, **values)


@cache
def _environment(folder: Path) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"grouped": _grouped, "percent": _percent, "with_code": _with_code}
    return environment


def _shown(value: Any) -> Any:
    return on_one_line(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _grouped(number: int) -> str:
    return f"{number:,}"


def _with_code(text: str) -> "Markup":
    """Return a text with what stands in it between two backticks as code."""
    from markupsafe import Markup, escape

    parts = [escape(on_one_line(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a backtick without its second one is a character
        return Markup("`").join(parts)
    return Markup("").join(Markup("<code>{}</code>").format(part) if k % 2 else part for k, part in enumerate(parts))


def _percent(share: float) -> str:
    return f"{share:.1%}"
