"""What every script shares: options, deployment settings, exit codes, terminal output, Ray."""
