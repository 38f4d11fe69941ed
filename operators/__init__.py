"""How a bar becomes a signal: one pure step per file."""
