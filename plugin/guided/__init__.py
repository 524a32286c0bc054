"""Answers that match: constraints, and the libraries that enforce them."""

from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend, Matcher
from chatplan.guided.constraint import Constraint

__all__ = ["CannotEnforce", "Constraint", "Grammar", "GrammarBackend", "Matcher"]
