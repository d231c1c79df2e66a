"""A registry finds things by name: one file each, discovered in one package (or several).

`Registry("task", "workbench.tasks")` imports every module of that package whose name does
not start with an underscore, the first time anything is looked up. A module adds itself with
`@registry.register`. There is no list to edit: adding a thing is adding a file.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from workbench.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind, filled from their packages on first use."""

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind = kind
        self._packages = packages
        self._things: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a thing under `name`. Raises `ValueError` on a second claim."""

        def add(thing: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = thing
            return thing

        return add

    def get(self, name: str) -> T:
        """The thing called `name`. Raises `UnknownName` with the nearest known name."""
        self._discover()
        if name not in self._things:
            raise UnknownName(unknown(self.kind, name, self._things))
        return self._things[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._discover()
        return sorted(self._things)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _discover(self) -> None:
        if self._discovered:
            return
        for name in self._packages:
            package = importlib.import_module(name)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{name}.{module.name}")
        self._discovered = True  # last: a failed import is raised again, and threads wait for it


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The one-line message for a name that does not exist: what was asked, the nearest, all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no {kind} {name!r}; {hint}known: {', '.join(names)}"
