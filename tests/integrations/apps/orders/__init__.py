"""A Django application with writes of many rows, and fields that the ledger must not show."""
