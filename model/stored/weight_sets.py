"""The sets of weights in one file, and which of them counts: the moving average, else the only one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.stored.bad_checkpoint import BadCheckpoint, listed, printable
from model.stored.pickled import Malformed
from model.stored.state_dicts import Leaf, Leaves, StateDict, averages
from model.stored.stored_tensor import Unusable

# In a file with the first key `state_dict` is the average, and the second key has the weights it averages.
_AVERAGE_IN_STATE_DICT = (
    ("message_hub", "ema_state_dict"),  # MMEngine
    ("averaging_state", "current_model_state"),  # Lightning
)


@dataclass(frozen=True)
class WeightSets:
    """The sets of weights in a file.

    Attributes:
        content: of the file.
        found: every tensor in it, by its path.
        present: the sets with names.
        fitting: the sets that may be taken.
    """

    content: object
    found: Leaves
    present: list[StateDict]
    fitting: list[StateDict]

    def chosen(self, origin: str, say: Callable[[str], None]) -> StateDict:
        """The moving average if there is one, as timm's loader has it, else the only set; `say` is told of others.

        Raises BadCheckpoint if two differ, or if there is an average that cannot be taken.
        """
        unfit = self._unfit_average()
        if unfit is not None:
            raise BadCheckpoint(
                f"{origin} holds a moving average under {unfit} that is not taken: its names, shapes or order are not "
                "the network's. Save the average as a whole state_dict, or, if the weights that were not averaged are "
                "meant, those alone, with torch.load and torch.save"
            )
        found = [state for state in self.fitting if self._is_average(state)]
        preferred = found or [state for state in self.fitting if not state.is_backup] or self.fitting
        first = preferred[0]
        if not all(_same(first, other) for other in preferred[1:]):
            keys = listed([_key(state) for state in preferred])
            raise BadCheckpoint(
                f"{origin} holds different weights under {keys}, and nothing says which are meant: keep those that "
                "are, with torch.load and torch.save"
            )
        left = [_key(state) for state in self.fitting if state not in preferred and not _same(first, state)]
        if left:
            kind = ", the moving average," if found else ""
            say(printable(f"{origin}: takes {_key(first)}{kind} and not {listed(left)}"))
        return first

    @property
    def _raw_key(self) -> str | None:
        keys: set[object] = set(self.content) if isinstance(self.content, dict) else set()
        return next((raw for mark, raw in _AVERAGE_IN_STATE_DICT if {"state_dict", mark, raw} <= keys), None)

    def _is_average(self, state: StateDict) -> bool:
        if self._raw_key is None:
            return state.is_average
        first = state.key.partition(".")[0]
        return first == "state_dict" or (first != self._raw_key and state.is_average)

    def _unfit_average(self) -> str | None:
        """The key of an average that is not among the sets that fit."""
        taken = [state for state in self.fitting if self._is_average(state)]
        fits = set(map(id, self.fitting))
        unfit = [state.key for state in self.present if self._is_average(state) and id(state) not in fits]
        unfit += [
            key
            for key in averages(self.found, self.fitting)
            if key.partition(".")[0] != self._raw_key and not any(state.prefix.startswith(key + ".") for state in taken)
        ]
        return unfit[0] if unfit else None


def _key(state: StateDict) -> str:
    return state.key or "its top level"


def _same(one: StateDict, other: StateDict) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        _same_values(leaf, other.tensors[name]) for name, leaf in one.tensors.items()
    )


def _same_values(one: Leaf, other: Leaf) -> bool:
    if one is other or isinstance(one, Unusable) or isinstance(other, Unusable) or one.shape != other.shape:
        return one is other
    try:
        return np.array_equal(one.load(), other.load())
    except Malformed:
        return False
