"""The header ``WWW-Authenticate`` of answers 401 and 403 (RFC 6750, section 3)."""

from __future__ import annotations

import re

from chatplan.errors import ChatplanError, PermissionDeniedError

__all__ = ["challenge"]


def challenge(error: ChatplanError) -> str:
    """The value of ``WWW-Authenticate`` for an error 401 or 403. A request without a credential gets no error code."""
    if error.code == "missing_credentials":
        return 'Bearer realm="chatplan"'
    kind = "insufficient_scope" if isinstance(error, PermissionDeniedError) else "invalid_token"
    # RFC 6750 allows these characters; a message may quote a model name of the request, whatever it contains.
    description = re.sub(r"[^ !#-\[\]-~]", "?", str(error))
    return f'Bearer realm="chatplan", error="{kind}", error_description="{description}"'
