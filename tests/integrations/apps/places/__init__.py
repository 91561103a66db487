"""A Django application whose models inherit and whose handlers save again."""
