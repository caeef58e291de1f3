"""Hostile input from a coverage-guided fuzzer: ``make fuzz SECONDS=60``.

``targets`` takes bytes and asserts what must hold. The tests use random bytes, and all inputs that have broken it.
"""
