"""Meta-World's 50 manipulation tasks as families; metaworld and MuJoCo are imported when an environment is made."""
