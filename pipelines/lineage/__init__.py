"""What lies in a storage root, and what came from what: attempts, manifests, states."""
