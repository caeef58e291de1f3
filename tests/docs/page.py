"""A page of documentation as data: its headings, links, code, and the script of its examples."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MARK = "--- output of example"
_fence = re.compile(r"^```(.*)$")
_heading = re.compile(r"^#{1,6} (.+?)\s*$")
_link = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_span = re.compile(r"`([^`]+)`")


class Block(NamedTuple):
    """A fenced block: the words after its fence, and its text."""

    info: list[str]
    text: str


class Page:
    """One Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.blocks: list[Block] = []
        self.prose: list[str] = []
        info: list[str] | None = None
        inside: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            fence = _fence.match(line)
            if fence is None:
                (self.prose if info is None else inside).append(line)
            elif info is None:
                info, inside = fence[1].split(), []
            else:
                self.blocks.append(Block(info, "\n".join(inside) + "\n"))
                info = None
        assert info is None, f"{self.name} has a fence without an end"

    def anchors(self) -> set[str]:
        """Return the anchors of its headings, as GitHub writes them."""
        found: set[str] = set()
        for line in self.prose:
            heading = _heading.match(line)
            if heading:
                text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
                slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                number, unique = 0, slug
                while unique in found:
                    number += 1
                    unique = f"{slug}-{number}"
                found.add(unique)
        return found

    def links(self) -> list[str]:
        """Return the targets of its links, except those in code."""
        return _link.findall(_span.sub("", "\n".join(self.prose)))

    def spans(self) -> list[str]:
        """Return its code in running text. An escaped bar of a table is a bar."""
        return [span.replace("\\|", "|") for span in _span.findall("\n".join(self.prose))]

    def code(self) -> list[str]:
        """Return all code except Python, line by line. Continued lines are joined, and a list of words is a command
        line.
        """
        lines = self.spans()
        for block in self.blocks:
            if block.info[:1] != ["python"]:
                lines += block.text.replace("\\\n", " ").splitlines()
        return [line.replace('", "', " ").replace('["', " ") for line in lines]

    def rows(self) -> Iterator[list[str]]:
        """Yield the rows of its tables, without headings and rules."""
        for line in self.prose:
            if line.startswith("| "):
                yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]

    def script(self) -> tuple[str, list[str | None]]:
        """Return the executable blocks as one shell script, and the expected output of each, or None.

        ``python file=NAME`` is written, or appended, to a file. ``python run`` and ``sh run`` are run. ``text output``
        is the output of the block before it, with ``...`` for any text.
        """
        lines, outputs, files = ["set -eu"], list[str | None](), set[str]()
        for number, (info, text) in enumerate(self.blocks):
            end = f"END_OF_BLOCK_{number}"
            match info:
                case ["python", attribute] if attribute.startswith("file="):
                    name = attribute.removeprefix("file=")
                    lines.append(f"cat {'>>' if name in files else '>'} {name} <<'{end}'\n{text}{end}")
                    files.add(name)
                case ["python" | "sh" as language, "run"]:
                    lines.append(f"echo '{MARK} {len(outputs)}'")
                    lines.append(text if language == "sh" else f"python - <<'{end}'\n{text}{end}")
                    outputs.append(None)
                case ["text", "output"]:
                    outputs[-1] = text
        return "\n".join(lines), outputs


def pages() -> list[Page]:
    """Return all pages of the repository."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    return [Page(path) for path in sorted(paths)]
