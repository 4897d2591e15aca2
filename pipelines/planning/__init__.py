"""Estimate what a recipe takes on a kind of node: memory, days, network, requests, cost."""
