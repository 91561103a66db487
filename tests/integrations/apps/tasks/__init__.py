"""A project whose tasks a worker of Django runs."""
