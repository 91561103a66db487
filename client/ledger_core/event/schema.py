"""The JSON Schema (2020-12) of an event as it may be sent, made from the model and its limits.

The reader refuses some events that the schema accepts, because a schema can't express repeated
keys, nesting, the length of a leaf or lone surrogates. The reverse never happens.
"""

from typing import Any

import msgspec

from ledger_core.event.model import INTEGER_MAX, TEXT_SCHEMA, Event

REF_TEMPLATE = "#/$defs/{name}"
_VALUE_REF = {"$ref": REF_TEMPLATE.format(name="Value")}
_VALUE = {
    "title": "Value",
    "description": "Any JSON value whose numbers are exact in every language.",
    "anyOf": [
        {"type": ["null", "boolean"]},
        {"type": "number", "minimum": -INTEGER_MAX, "maximum": INTEGER_MAX},
        {"type": "string", **TEXT_SCHEMA},
        {"type": "array", "items": _VALUE_REF},
        {"type": "object", "propertyNames": TEXT_SCHEMA, "additionalProperties": _VALUE_REF},
    ],
}


def event_schema() -> dict[str, Any]:
    """Build the schema of `Event`; its parts stand under `$defs`."""
    (root,), parts = msgspec.json.schema_components([Event], ref_template=REF_TEMPLATE)
    for part in parts.values():
        # msgspec writes `Any` as the empty schema, and a map of it as one without values.
        for name, schema in part["properties"].items():
            if not schema:
                part["properties"][name] = _VALUE_REF
            elif schema.get("type") == "object":
                schema["additionalProperties"] = _VALUE_REF
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root,
        "$defs": {**parts, "Value": _VALUE},
    }
