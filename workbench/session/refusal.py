"""Why a file is refused: one line that cannot steer a terminal, whatever the file says."""

import contextlib
from collections.abc import Iterator

from workbench.errors import SessionError, WorkbenchError
from workbench.strict import one_line

DISTRUST = "do not trust this file; ask its sender to save it again and send it again"


def refusal(where: str, what: str, *, mend: str = DISTRUST) -> SessionError:
    """The error to raise: where, what was got, how to mend it."""
    return SessionError(f"{one_line(where)}: {one_line(what)}; {mend}")


@contextlib.contextmanager
def refused(doing: str, where: str) -> Iterator[None]:
    """Turn what can go wrong with a file into a `SessionError`."""
    try:
        yield
    except SessionError:
        raise
    except WorkbenchError as error:
        raise SessionError(f"{one_line(where)}: {one_line(str(error))}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SessionError(
            f"cannot {doing} {one_line(where)}: {one_line(reason)}; check the name, the permissions"
            " and the free space, or choose another place"
        ) from None
    except (MemoryError, RecursionError) as error:
        raise refusal(where, f"too large for this machine ({type(error).__name__})") from None
