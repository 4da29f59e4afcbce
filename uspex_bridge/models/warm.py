"""Models that stay loaded from one structure to the next, and are read anew once their weights have changed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any

from uspex_bridge.models import backends
from uspex_bridge.models.cards import CalculatorSettings

#: Most models that are kept at once.
MOST = 4


class ModelSource(ABC):
    """Where a worker's models come from: its own process (:class:`WarmModels`) or the batcher (:mod:`.batched`)."""

    def begin(self, order: dict[str, Any]) -> None:  # noqa: B027
        """Hear that a structure begins, and of the order that it comes by."""

    def end(self) -> None:  # noqa: B027
        """Hear that it has ended."""

    @abstractmethod
    def get(self, name: str, settings: CalculatorSettings, state: Any) -> backends.Backend:
        """Return the calculator ``name`` with the weights in this state.

        Raises:
            ModelError: it cannot be loaded.
        """

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the calculators that this process holds."""


class WarmModels(ModelSource):
    """The loaded models of a process, by everything that decides what they compute."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Any, backends.Backend]] = OrderedDict()

    def get(self, name: str, settings: CalculatorSettings, state: Any) -> backends.Backend:
        """Return the calculator ``name``, loading it unless it is there with the weights in this state.

        Raises:
            ModelError: it cannot be loaded.
        """
        key = repr((name, settings))
        if key in self._kept:
            loaded_as, backend = self._kept[key]
            if loaded_as == state:
                self._kept.move_to_end(key)
                return backend
            self._drop(key)
        backend = backends.load(name, settings)
        self._kept[key] = (state, backend)
        while len(self._kept) > MOST:
            self._drop(next(iter(self._kept)))
        return backend

    @property
    def names(self) -> list[str]:
        """Names of the calculators that are loaded."""
        return [backend.name for _, backend in self._kept.values()]

    def holds(self, backend: backends.Backend) -> bool:
        """Tell whether a calculator is kept."""
        return any(kept is backend for _, kept in self._kept.values())

    def clear(self) -> None:
        """Keep none."""
        for key in list(self._kept):
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._kept.pop(key)[1].close()
