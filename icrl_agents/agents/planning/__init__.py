"""Planning in an agent's imagination (DICP)."""
