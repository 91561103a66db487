"""Fuzzing of each parser of bytes that others send: `make fuzz`, and its corpus as a test.

targets     the parsers, each with what must hold for any bytes
corpus      the inputs of tests/corpus, which reach different code each
fuzzing     runs one target under atheris, in a process of its own
__main__    `python -m tests.fuzz`: all targets for some minutes, and what they found
"""
