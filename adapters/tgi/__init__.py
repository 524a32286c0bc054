"""The engine ``tgi``: plans are made here, and a running Text Generation Inference server generates.

The chat template is rendered and constraints are checked here; the server gets a prompt and its own parameters. Its
tokens go through the same output stages as those of any engine.
"""

from chatplan.adapters.tgi.chat import tgi_chat
from chatplan.adapters.tgi.engine import TGIEngine

__all__ = ["TGIEngine", "tgi_chat"]
