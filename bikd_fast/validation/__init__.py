"""Good pictures with defects that training never draws: what is chosen and judged by without a test set."""
