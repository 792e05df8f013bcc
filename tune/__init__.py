"""The search, as its driver sees it. What runs on workers is bikd_fast.search."""
