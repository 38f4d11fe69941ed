"""Who is connected to whom."""
