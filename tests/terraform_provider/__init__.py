"""A stand-in for the google and google-beta Terraform providers: their schemas, and no cloud behind them.

Terraform itself checks every argument, block, type and reference against the schema, so `validate`, `plan`
and `test` work without a registry, credentials or a network. What the cloud would compute is unknown in a
plan and made up in an apply. Not checked is what the real providers check in code: most ranges, conflicts
between arguments, permissions, quotas. tests/terraform has assertions for those that the bridge depends on.
"""
