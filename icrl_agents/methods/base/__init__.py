"""Shared parts of all methods: contract, config, context, percept tokens, transforms of steps."""
