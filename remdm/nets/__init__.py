"""Networks: what an observation becomes, what denoises a plan, and averages of weights."""
