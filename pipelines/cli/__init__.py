"""A script and its reader: options, the place, exit codes, what a terminal shows."""
