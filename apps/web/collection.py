"""Garbage collection: Streamlit collects after every run of a page, before it tells of the end.

It looks at every object there is, most of them of modules that stay: a tenth of a second and more
for each click. What is there after a run's collection is therefore left out of later ones, again
whenever modules were loaded since. Counted references still free what is dropped meanwhile.
"""

import atexit
import gc
import sys

_modules = 0


def keep_modules() -> None:
    """Leave the modules that are loaded, and all that they hold, out of garbage collection."""
    global _modules
    if len(sys.modules) > _modules:
        _modules = len(sys.modules)
        gc.freeze()


atexit.register(gc.unfreeze)  # compiled modules complain of what is never collected
