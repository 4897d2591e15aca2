"""Many stages of one recipe: studies and suites, several at once."""
