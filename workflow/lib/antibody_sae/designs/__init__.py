"""Libraries of antibodies to order: written under a lever or without one, kept where they meet the constraints, and
judged by models that had no part in writing them."""
