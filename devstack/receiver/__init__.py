"""The demo partner's webhook receiver: verifies Standard Webhooks signatures and remembers what it got."""
