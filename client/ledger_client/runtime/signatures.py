"""The signature of a function, without the values of its annotations.

Python 3.14 computes annotations when they are asked for. One that names what is imported for type
checkers alone is a NameError then, which would end the import of an application.
"""

import inspect
import sys
from collections.abc import Callable
from typing import Any

if sys.version_info >= (3, 14):
    from annotationlib import Format

    def signature_of(function: Callable[..., Any]) -> inspect.Signature:
        """Its parameters; annotations as texts. Raises: ValueError, TypeError without one."""
        return inspect.signature(function, annotation_format=Format.STRING)

else:

    def signature_of(function: Callable[..., Any]) -> inspect.Signature:
        """Its parameters; annotations as they are. Raises: ValueError, TypeError without one."""
        return inspect.signature(function)
