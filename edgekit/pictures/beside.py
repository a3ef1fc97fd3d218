"""Pictures encoded while the decoder is open, within one budget."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.errors import BudgetError
from edgekit.pictures.prompt import Seen
from edgekit.pictures.sight import Sight, Source
from edgekit.runtime.model import Model
from edgekit.runtime.values import Options
from edgekit.sizes import parse_bytes


def look_beside(sight: Sight, decoder: Model, sources: Sequence[Source], options: Options) -> list[Seen]:
    """As `Sight.look`; a decoder with a budget gives up half of it meanwhile: less if that is all the encoder can use,
    more if it needs more.

    Raises:
        BudgetError: the two do not fit, even then.
    """
    budget = parse_bytes(options.ram)
    if not budget or sight.knows(sources):
        return sight.look(sources, options, None)
    least, whole = sight.needs(options)
    share = max(least, min(whole, budget // 2))
    try:
        decoder.set_budget(budget - share if share < budget else 1)
    except BudgetError:
        share = least
        try:
            decoder.set_budget(budget - share if share < budget else 1)
        except BudgetError as error:
            raise BudgetError(
                f"a budget of {budget} bytes has no room for the encoder of pictures, which needs {least} bytes, "
                "beside the decoder; raise it"
            ) from error
    try:
        return sight.look(sources, options, share)
    finally:
        decoder.set_budget(budget)
