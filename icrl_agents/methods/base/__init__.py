"""What methods share: the contract, contexts, configs and transforms of steps."""
