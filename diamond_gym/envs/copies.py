"""Copies of dreams, pickled or deep, which dream on in the very weights of the original or say that they cannot."""

import copy
import dataclasses
from typing import Any

from diamond_gym.envs.infos import EnvState
from diamond_gym.errors import DiamondGymError
from diamond_gym.registry.models import Entry
from diamond_gym.world_model import WorldModel, versions


class CopiedDream:
    """What `DreamVectorEnv` needs to be copied.

    A dream of a model from the registry is pickled with the model's card, and found again by what that says of its
    weights and starts; a deep copy dreams in the same model in memory. A model in memory goes with the dream.
    """

    _arguments: dict[str, Any]
    _entry: Entry | None  # what the model was loaded from
    _loaded: tuple[int, ...]  # and its weights then
    _model: WorldModel | None

    def __getstate__(self: Any) -> dict[str, Any]:
        model, arguments = self.world_model, dict(self._arguments)
        if self._entry is not None:
            if versions(model) != self._loaded:
                raise DiamondGymError(
                    "this dream's networks were changed after they had been loaded, so that it cannot be pickled: save "
                    "them as a model, and make the dream from that"
                )
            arguments |= {"game": None, "model": self._entry, "precision": model.precision}
        return self._pickled(arguments)  # type: ignore[no-any-return]

    def _pickled(self: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        state = self.clone_state(include_rng=True) if self._begun else None
        random = (self._np_random, self._np_random_seed)
        return {"arguments": arguments, "state": state, "spec": self.spec, "random": random}

    def __setstate__(self: Any, pickled: dict[str, Any]) -> None:
        self.__init__(**pickled["arguments"])
        self.spec, (self._np_random, self._np_random_seed) = pickled["spec"], pickled["random"]
        if pickled["state"] is not None:
            self.take_over(pickled["state"])

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        model, arguments = self.world_model, dict(self._arguments)
        twin = object.__new__(type(self))
        if self._entry is not None:
            memo[id(model)] = model
            arguments |= {"game": None, "model": model, "compile": False}
        twin.__setstate__(copy.deepcopy(self._pickled(arguments), memo))
        if self._entry is not None:
            twin._arguments, twin._entry, twin._loaded = dict(self._arguments), self._entry, self._loaded
        return twin

    def take_over(self: Any, state: EnvState) -> None:
        """Restores the state of a pickled environment, whose model came along or is the very same.

        A model in memory that was never registered has another fingerprint in each process: none is compared.
        """
        dream = dataclasses.replace(state.dream, fingerprint=self.dream.fingerprint)
        self.restore_state(dataclasses.replace(state, dream=dream))
