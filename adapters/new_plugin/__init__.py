"""``chatplan new-plugin``: a complete plugin package, to be changed into the one that is wanted."""
