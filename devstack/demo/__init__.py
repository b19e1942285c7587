"""`python -m devstack.demo`: payments through the whole bridge while SAP is well, overloaded and down."""
