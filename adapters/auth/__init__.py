"""Who may ask: API keys, JSON web tokens, opaque tokens, and their quotas."""
