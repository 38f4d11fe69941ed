"""Mutants that survive because they cannot move money, each with its reason."""

LEFT_OUT: dict[str, str] = {
    "risk.account._signals": "what was published, for the page: it moves nothing, and the reference does not tell it",
}

EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {}
