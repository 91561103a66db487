"""The settings of a program, from the fields of a struct: flag, variable and help text of each."""

from typing import Any, NamedTuple

import msgspec


class Setting(NamedTuple):
    """One row of the table: how it is called, what it takes, what it is for."""

    name: str
    variable: str
    type: type
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """`--publish-interval-s`."""
        return f"--{self.name.replace('_', '-')}"


def settings_of(struct: type[msgspec.Struct], variable_prefix: str) -> tuple[Setting, ...]:
    """The rows of a struct, whose fields are annotated with limits and, last, their help text."""
    return tuple(
        Setting(
            field.name,
            f"{variable_prefix}{field.name.upper()}",
            field.type.__origin__,
            field.default,
            field.type.__metadata__[-1],
        )
        for field in msgspec.structs.fields(struct)
    )
