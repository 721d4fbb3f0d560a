"""`python -m icrl_agents`, which is also what `accelerate launch -m icrl_agents` starts."""

from icrl_agents.cli.app import main

if __name__ == "__main__":
    main()
