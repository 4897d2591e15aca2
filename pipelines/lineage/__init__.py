"""Attempts in a storage root and their parents: manifests, resume states, status."""
