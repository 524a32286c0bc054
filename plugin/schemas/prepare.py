"""JSON schemas rewritten so that llguidance enforces all of them."""

from __future__ import annotations

from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.finish import finished
from chatplan.schemas.lower import Lowering
from chatplan.schemas.reader import read
from chatplan.schemas.together import check_together

__all__ = ["prepare"]

GROWTH = 10
SPACE = 2000


def prepare(schema: Any) -> Any:
    """An equivalent schema that llguidance can enforce, of draft 2020-12 whatever the draft of ``schema``.

    ``schema`` is JSON as :func:`json.loads` gives it. Annotations are left out; properties keep their order.
    Definitions: https://json-schema.org/draft/2020-12/json-schema-core and -validation.

    Raises:
        CannotEnforce: it is malformed, matches nothing, or says something that llguidance cannot enforce;
            with a JSON pointer to the keyword.
    """
    try:
        return _prepared(schema)
    except RecursionError:  # what called this may have left little of the stack
        raise CannotEnforce("the schema refers to itself in too complicated a way") from None


def _prepared(schema: Any) -> Any:
    document = read(schema)
    lowering = Lowering(document, max(GROWTH * document.size, document.size + SPACE))
    root = lowering.lower(document.root, "")
    targets = {name: lowering.lower(node, "") for name, node in document.targets.items()}
    check_together(document, root, targets)
    result = finished(root, targets)
    if result is False:
        raise CannotEnforce("no JSON text matches the schema, or none that ends", wrong=True)
    return {} if result is True else result
