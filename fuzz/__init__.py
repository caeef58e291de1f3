"""Hostile input, made by a fuzzer that watches which code it reaches: ``make fuzz SECONDS=60``.

``targets`` takes bytes and asserts what must hold; the tests feed it random ones and all that ever broke it.
"""
