"""Whether a signal may become an order: the account, its rules, exits, halts and statistics."""
