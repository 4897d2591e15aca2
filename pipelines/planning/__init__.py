"""What a recipe takes: memory, days, network, requests and cost on a kind of node."""
