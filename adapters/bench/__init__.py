"""``chatplan bench``: how many tokens a second a server or a model gives, and how soon, at each level of load."""
