"""Tasks that go from one spooler to another: once (``unspool move``), or as they come (``unspool forward``)."""
