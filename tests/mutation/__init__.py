"""Does a broken account pass the tests? `python -m tests.mutation` breaks it in many small ways and sees.

Every function below `risk/` and `broker/` that money passes through is changed in one place at a time
(`mutants.py`), as plain Python, not compiled (`quick.py`). A mutant is killed when some generated history
gives another ledger than the reference, or an error, or no end; if none does, by the example tests. What
survives is listed, and fails the command unless `equivalents.py` says why it cannot move money.
"""
