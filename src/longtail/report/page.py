"""A page in one file: a template filled in, with its style, its script, Plotly and all data inside."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..files import write_text
from ..version import __version__


@cache
def _inlined(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def write_page(path: Path, template: str, figures: Mapping[str, Any], tables: Mapping[str, Any], **facts: Any) -> None:
    """Fill in `template` and write it to `path`.

    `figures`: Plotly figures by the name of their place. `tables`: for each sortable one its "columns", which have a
    "name" and a "kind" (text, number or percent), and "rows". Everything in `facts` is escaped where it stands in the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=PackageLoader("longtail.report"), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    page = environment.get_template(template).render(
        data={"figures": figures, "tables": tables},
        style=Markup(_inlined("page.css")),
        script=Markup(_inlined("page.js")),
        plotly=Markup(get_plotlyjs()),
        version=__version__,
        made=datetime.now(timezone.utc).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00") + " UTC",
        **facts,
    )
    write_text(path, page)
