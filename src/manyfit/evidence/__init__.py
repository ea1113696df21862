"""What runs say about configurations: the rules, the decisions, the estimates, and the sentences that print them."""
