"""Parses a checkpoint's recommended sampling: the `lm_gen_config` of a config.json.

Its keys are arguments of the official `LMGen` (package `moshi`). Those that a session may set are
recommendations; guidance is not, because the model's state depends on it.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from pipeline.errors import ConfigError

Natural = Annotated[int, msgspec.Meta(ge=0)]
Temperature = Annotated[float, msgspec.Meta(ge=0)]


class Generation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `LMGen` by their names; None is its default.

    cfg_coef: 1 for no guidance.
    check, support_out_of_sync: have no effect on sampling.
    """

    use_sampling: bool = True
    temp: Temperature | None = None
    temp_text: Temperature | None = None
    top_k: Natural | None = None
    top_k_text: Natural | None = None
    cfg_coef: float = 1.0
    check: bool = False
    support_out_of_sync: bool = False

    def recommended(self) -> dict[str, Any]:
        """The sampling of sessions that set none, by LMGen's names."""
        if not self.use_sampling:
            return {"temp": 0.0, "temp_text": 0.0}
        given = {name: getattr(self, name) for name in ("temp", "temp_text", "top_k", "top_k_text")}
        return {name: value for name, value in given.items() if value is not None}


def parse_generation(raw: Mapping[str, Any]) -> Generation:
    """The `lm_gen_config` of the config.json `raw`, which may have none.

    Raises:
        ConfigError: a key is unknown, mistyped or out of range.
    """
    try:
        return msgspec.convert(raw.get("lm_gen_config") or {}, Generation)
    except msgspec.ValidationError as error:
        problem, _, at = str(error).partition(" - at `$")
        raise ConfigError("lm_gen_config" + at.rstrip("`"), problem) from None
