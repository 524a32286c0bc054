"""The engine ``remote``: servers of the same protocol answer, and this side checks what they can honour.

Needs the extra ``remote``, which is the client of OpenAI.
"""

from chatplan.adapters.remote.chat import remote_chat
from chatplan.adapters.remote.runner import RemoteRunner

__all__ = ["RemoteRunner", "remote_chat"]
