"""Learning from demonstrations and videos: models that label them, and policies that imitate them."""
