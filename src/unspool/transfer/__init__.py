"""Transfers of tasks from one spooler to another, once (``unspool move``) or continuously (``unspool forward``)."""
