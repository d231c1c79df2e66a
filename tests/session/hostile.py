"""Hostile session files, each with what must become of it: refused with these words, or inert.

`python -m tests.session.hostile FOLDER` writes all of them, for other readers to be tried on.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.session import hostile_archives, hostile_arrays, hostile_bounds, hostile_documents
from tests.session.changing import Case, packed, parts

MARKUP = [*hostile_documents.MARKUP, hostile_documents.LINES]
FAMILIES = (
    hostile_archives.cut_and_flipped,
    hostile_archives.zip_headers,
    hostile_archives.zip_names,
    hostile_archives.zip_bombs,
    hostile_archives.members_and_digests,
    hostile_documents.manifests,
    hostile_documents.json_texts,
    hostile_documents.documents,
    hostile_documents.foreign_text,
    hostile_documents.models,
    hostile_bounds.findings,
    hostile_bounds.much_to_show,
    hostile_bounds.forged_lines,
    hostile_bounds.steps,
    hostile_arrays.safetensors_members,
    hostile_arrays.array_values,
)


def corpus() -> Iterator[Case]:
    """Every case; names are unique."""
    yield Case("honest", packed(parts()), "inert")
    for family in FAMILIES:
        yield from family()


def write_all(folder: Path) -> list[Case]:
    """Write every file, named by number; the cases, in that order."""
    cases = list(corpus())
    for number, case in enumerate(cases):
        (folder / f"{number:04d}.workbench").write_bytes(case.content)
    return cases


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
