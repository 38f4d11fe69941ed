"""Everything outside the process: settings, files, results."""
