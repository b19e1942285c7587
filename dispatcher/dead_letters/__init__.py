"""The dead-letter service: records what no subscriber took, and parks or returns what it was about."""
