"""How large anything in a session file may be. What is larger is refused before it is read.

The limits keep the refusal of a hostile file under 200 MB of memory: a value in a JSON text costs
up to 100 bytes once it is read, and up to 4 kB while pydantic reads it from text.
"""

MIB = 2**20

FILE = 2**32 - 1 - MIB
"""Bytes of the whole file: what a ZIP can hold without the 64-bit extension."""
MEMBERS = 4097
"""Files in the archive, `manifest.json` included."""
DIRECTORY = 2 * MIB
"""Bytes of the ZIP's central directory."""
NAME = 100
"""Characters of a member's name."""

MANIFEST = 2 * MIB
"""Bytes of `manifest.json`."""
SESSION = 16 * MIB
"""Bytes of `session.json`, as counted while it is unpacked."""
RATIO = 200
"""Unpacked bytes to one packed byte."""

DEPTH = 60
"""Objects and lists inside each other in a JSON text."""
VALUES = 250_000
"""Values in a JSON text: numbers, words, objects and lists."""
STRING = 100_000
"""Characters of a string in a JSON text."""
DIGITS = 40
"""Characters of a number in a JSON text."""
PIECE_VALUES = 50_000
"""Values in a manifest, in one record, or in a document without its records. What a record's
`parameters` and `result` hold, and a network's task, model and recipe, counts one a key."""
PIECE_CONTAINERS = 10_000
"""Objects and lists in the same."""

FINDINGS = 2000
"""Findings of all records."""
ASIDES = 10_000
"""Controls and details of all findings: each is a line wherever findings are shown."""
NOTES = 200
"""Notes."""
NOTES_TEXT = 10**6
"""Characters of all notes."""

TENSORS = 10_000
"""Tensors in one member."""
TENSOR_HEADER = 4 * MIB
"""Bytes of the header of a safetensors member."""
DIMENSIONS = 8
"""Axes of a tensor."""
DIMENSION = 2**31
"""What an axis must be shorter than."""
COLUMNS = 400
"""Tensors in `arrays/training.safetensors`."""

CHUNK = MIB
"""Bytes that are read at a time."""
