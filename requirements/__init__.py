"""The pins of every package that the Makefile installs, and what writes them."""
