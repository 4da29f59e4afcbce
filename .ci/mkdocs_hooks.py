"""What the site adds to the pages: help of the commands, the changelog, and plain text for links that leave docs/."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

from uspex_bridge.cli import docs, external, main, vasp

ROOT = Path(__file__).parents[1]
#: Script that the theme would load from the network, and the one in docs/ that stands for it.
SHIM = "https://unpkg.com/iframe-worker/shim"


def on_page_markdown(markdown, page, **_):
    """Return the Markdown of a page for the site."""
    name = page.file.src_uri
    if name == "reference/cli.md":
        return markdown + "\n".join(commands())
    if name == "reference/changelog.md":
        text = (ROOT / "CHANGELOG.md").read_text().replace("](docs/", "](../")
        return re.sub(r"\[([^\]]+)\]\((?!\.\./|https?:|#)[^)]+\)", r"`\1`", text)
    pages = docs.pages()  # in links the heading stands for the name of the file
    markdown = re.sub(r"\[(\w+)\.md\](?=\()", lambda found: f"[{docs.title(pages[found[1]])}]", markdown)
    return markdown if "/" in name else re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]+\)", r"`\1`", markdown)


def on_post_page(output, page, **_):
    """Return the HTML of a page that loads nothing from the network."""
    return output.replace(SHIM, "../" * page.file.src_uri.count("/") + "worker.js")


def commands() -> Iterator[str]:
    """Yield a section with the help of each command."""
    for name, command in (("uspex-bridge-vasp", vasp.command), ("uspex-bridge-external", external.command)):
        yield from sections(click.Context(command, info_name=name, max_content_width=80), 2)
    yield from sections(click.Context(main.command, info_name="uspex-bridge", max_content_width=80), 2)


def sections(context: click.Context, level: int) -> Iterator[str]:
    """Yield the help of a command and of those below it."""
    yield f"\n{'#' * level} {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            below = context.command.get_command(context, name)
            assert below is not None
            yield from sections(click.Context(below, info_name=name, parent=context, max_content_width=80), level + 1)
