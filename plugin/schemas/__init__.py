"""JSON schemas rewritten into what llguidance enforces, exactly or not at all.

``prepare`` reads a schema of any draft (``reader``, ``references``), lowers each keyword to a few (``lower`` and the
modules it calls), looks for what the library gets wrong (``together``) and for what can match nothing, and writes the
result (``finish``).
"""
