"""``uspex-bridge docs``: the pages of the documentation, which are part of the installed package."""

from __future__ import annotations

from pathlib import Path

import click

#: Folder of the pages. It is a link in a checkout and a folder in an installed package.
PAGES = Path(__file__).parents[1] / "docs"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("page", required=False)
def command(page: str | None) -> None:
    """Show PAGE of the documentation, or the list of pages. No network is needed.

    Example: uspex-bridge docs incar
    """
    from uspex_bridge.base.errors import InputError
    from uspex_bridge.base.schema import nearest

    known = pages()
    if page is None:
        width = max(map(len, known))
        click.echo("\n".join(f"{name:{width}}  {title(path)}" for name, path in known.items()))
        return
    name = page.removesuffix(".md").rpartition("/")[2]
    if name not in known:
        raise InputError(f"no page '{page}' in the documentation{nearest(name, known)}")
    click.echo_via_pager(known[name].read_text(encoding="utf-8"))


def pages() -> dict[str, Path]:
    """Return the pages by name."""
    return {path.stem: path for path in sorted(PAGES.glob("*.md"))}


def title(path: Path) -> str:
    """Return the heading of a page."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
